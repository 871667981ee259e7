{{- define "roadstead.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "roadstead.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "roadstead.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "roadstead.selector" -}}
app.kubernetes.io/name: {{ include "roadstead.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* metadata of an object: (dict "root" $ "name" … "labels" … "annotations" …) */}}
{{- define "roadstead.metadata" -}}
{{- $root := .root -}}
name: {{ .name }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "roadstead.selector" $root | nindent 2 }}
  app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ $root.Release.Service }}
  helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
  {{- with merge (dict) (default (dict) .labels) $root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (default (dict) .annotations) $root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "roadstead.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "roadstead.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "roadstead.image" -}}
{{- $why := "image.repository: name where your cluster pulls the image from. `make image` builds it; `skopeo copy --all oci-archive:target/image/registry-VERSION.tar docker://REGISTRY/roadstead/registry:VERSION` pushes it" -}}
{{- $repository := required $why .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Puts .over into .base, section by section. Sprig's mergeOverwrite takes false for "not given". */}}
{{- define "roadstead.over" -}}
{{- $base := .base -}}
{{- range $key, $value := .over -}}
{{- if and (kindIs "map" $value) (kindIs "map" (get $base $key)) -}}
{{- include "roadstead.over" (dict "base" (get $base $key) "over" $value) -}}
{{- else -}}
{{- $_ := set $base $key $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "roadstead.config" -}}
{{- $debug := dict "addr" ":5001" "prometheus" (dict "enabled" true) -}}
{{- $http := dict "addr" ":5000" "debug" $debug -}}
{{- if .Values.tls.existingSecret -}}
{{- $files := dict "certificate" "/etc/roadstead/tls/tls.crt" "key" "/etc/roadstead/tls/tls.key" -}}
{{- $_ := set $http "tls" $files -}}
{{- end -}}
{{- $storage := dict "filesystem" (dict "rootdirectory" "/var/lib/registry") "delete" (dict "enabled" true) -}}
{{- $config := dict "version" 0.1 "log" (dict "formatter" "json") "storage" $storage "http" $http -}}
{{- include "roadstead.over" (dict "base" $config "over" .Values.config) -}}
{{- toYaml $config -}}
{{- end -}}

{{/* What would otherwise go wrong later, and less clearly. */}}
{{- define "roadstead.refusals" -}}
{{- if gt (int .Values.replicaCount) 1 -}}
{{- fail "replicaCount: a directory has one writer, which holds its lock; a second pod would never get ready. Leave it at 1" -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- fail "autoscaling.enabled: a directory has one writer, which holds its lock; more pods would never get ready. Give the one pod more processor and memory (resources)" -}}
{{- end -}}
{{- if or .Values.s3.existingSecret (dig "storage" "s3" "" .Values.config) -}}
{{- fail "s3.existingSecret, config.storage.s3: this version stores in a directory, not in a bucket. Leave them out, and give the volume a size (persistence.size)" -}}
{{- end -}}
{{- if or .Values.auth.htpasswd.existingSecret (dig "auth" "" .Values.config) -}}
{{- fail "auth.htpasswd.existingSecret, config.auth: this chart mounts no users yet, and serving without would not be what you asked for. Leave them out, and say who may reach the registry (networkPolicy.from, or client certificates by config.http.tls.clientcas)" -}}
{{- end -}}
{{- $http := dig "http" (dict) .Values.config -}}
{{- $debug := dig "debug" "addr" ":5001" $http -}}
{{- if or (ne (dig "addr" ":5000" $http) ":5000") (ne $debug ":5001") -}}
{{- fail "config.http.addr, config.http.debug.addr: probes and Services go to :5000 and :5001. Leave them out; the Service's port is service.port" -}}
{{- end -}}
{{- $root := dig "storage" "filesystem" "rootdirectory" "/var/lib/registry" .Values.config -}}
{{- if ne $root "/var/lib/registry" -}}
{{- fail "config.storage.filesystem.rootdirectory: the volume is mounted at /var/lib/registry. Leave it out" -}}
{{- end -}}
{{- if and .Values.config .Values.existingConfigMap -}}
{{- fail "config, existingConfigMap: the one stands in place of the other. Leave one of them out" -}}
{{- end -}}
{{- if and .Values.existingConfigMap .Values.tls.existingSecret -}}
{{- fail "tls.existingSecret, existingConfigMap: the ConfigMap says which certificate is shown. Mount the Secret with extraVolumes and extraVolumeMounts, and name its files in the ConfigMap" -}}
{{- end -}}
{{- if and .Values.podDisruptionBudget.minAvailable .Values.podDisruptionBudget.maxUnavailable -}}
{{- fail "podDisruptionBudget: minAvailable and maxUnavailable exclude each other. Leave one of them empty" -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts: name the host that clients push to, for example [registry.example]" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs: name the Gateway, for example [{name: public, namespace: gateways}]" -}}
{{- end -}}
{{- end -}}
