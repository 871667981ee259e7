//! Both programs from outside. One binary, so that it is linked once; one module per suite, and each
//! suite runs in a process of its own (`make test`): some change their namespaces and limits.

mod bucket_model;
#[path = "../../../runner/tests/it/corpus/mod.rs"]
mod corpus;
mod deploy_chart;
mod deploy_compose;
mod deploy_docs;
mod deploy_image;
mod deploy_metrics;
mod deploy_packages;
mod deploy_proxies;
mod docker_table;
mod official;
mod registry_clients;
mod registry_crash;
mod registry_crowd;
mod registry_differential;
mod registry_durable;
mod registry_load;
mod registry_model;
mod registry_protocol;
mod registry_tls;
mod registry_tolerates;
mod run_basics;
mod run_concurrency;
mod run_corpus;
mod run_docker_table;
mod run_guest;
mod run_terminal;
mod tidy;
