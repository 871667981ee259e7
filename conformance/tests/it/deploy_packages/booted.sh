# What the registry's package does on a machine with systemd, from installation to purge.
set -eux
not() { if "$@"; then return 1; fi; }
ready() { registry healthcheck "${1:-http}://127.0.0.1:5000/readyz"; }
until_ready() { for _ in $(seq 100); do ready "$@" 2> /dev/null && return; sleep 0.1; done; ready "$@"; }
pid() { systemctl show --property MainPID --value registry.service; }
# One request by hand: there is no client here.
ask() {
    exec 3<> /dev/tcp/127.0.0.1/5000
    printf '%s HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/octet-stream\r\nContent-Length: %s\r\n\r\n%s' "$1" "${#2}" "$2" >&3
    head -n 1 <&3
}
blob=sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a

# Installed: the service runs, and running means that it answers.
dpkg -i /test/roadstead-*.deb
systemctl is-active registry.service
ready
rrun --version
systemctl is-enabled registry.service
not systemctl is-enabled registry.socket
not systemctl is-active registry.socket
test "$(stat -c %U:%a /var/lib/registry)" = registry:700
test "$(stat -c %U "/proc/$(pid)")" = registry
systemd-analyze --man=no verify registry.service registry.socket
ask "POST /v2/app/blobs/uploads/?digest=$blob" '{}' | grep 201

# A reload ends when it is done; one that is killed comes back.
systemctl reload registry.service
ready
old=$(pid)
kill -9 "$old"
until [ "$(pid)" != "$old" ] && [ "$(pid)" != 0 ]; do sleep 0.1; done
until_ready
ask "GET /v2/app/blobs/$blob" '' | grep 200

# One that hangs is ended by the watchdog, and comes back.
mkdir -p /etc/systemd/system/registry.service.d
printf '[Service]\nWatchdogSec=2\n' > /etc/systemd/system/registry.service.d/watchdog.conf
systemctl daemon-reload
systemctl restart registry.service
old=$(pid)
kill -STOP "$old"
until [ "$(pid)" != "$old" ] && [ "$(pid)" != 0 ]; do sleep 0.1; done
until_ready
rm /etc/systemd/system/registry.service.d/watchdog.conf
systemctl daemon-reload

# By its socket: whoever connects is served, and waits while it restarts.
systemctl stop registry.service
systemctl start registry.socket
not systemctl is-active registry.service
ask "GET /v2/app/blobs/$blob" '' | grep 200
systemctl restart registry.service &
ask "GET /v2/app/blobs/$blob" '' | grep 200
wait
systemctl stop registry.socket registry.service

# A key that only root can read.
chown root: /test/tls.key && chmod 600 /test/tls.key
install -m 644 /test/tls.crt /etc/registry/tls.crt
cat > /etc/systemd/system/registry.service.d/tls.conf << 'END'
[Service]
LoadCredential=tls.key:/test/tls.key
Environment=REGISTRY_HTTP_TLS_CERTIFICATE=/etc/registry/tls.crt
Environment=REGISTRY_HTTP_TLS_KEY=%d/tls.key
END
systemctl daemon-reload
systemctl start registry.service
ready https
rm -r /etc/systemd/system/registry.service.d /etc/registry/tls.crt
systemctl daemon-reload
systemctl restart registry.service

# An upgrade restarts it.
old=$(pid)
dpkg -i /test/roadstead-registry_*.deb
test "$(pid)" != "$old"
until_ready
ask "GET /v2/app/blobs/$blob" '' | grep 200

# Removed, it runs no more; purged, its configuration is gone and the images stay.
dpkg -r roadstead-registry
not systemctl is-active registry.service
test -e /etc/registry/config.yml
dpkg -P roadstead-registry 2>&1 | tee /test/purged
grep 'the images stay in /var/lib/registry' /test/purged
test ! -e /etc/registry
test ! -e /etc/systemd/system/multi-user.target.wants/registry.service
test -e /var/lib/registry/registry.db
dpkg -P roadstead-rrun
echo 'all of it holds'
