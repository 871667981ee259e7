//! Random requests from several clients against a plain model of what must come of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use shared::Digest;

use crate::api::harness::{Registry, image, sha512};

/// One request; small numbers, so that they meet.
#[derive(Clone, Debug)]
enum Step {
    PushBlob { repo: u8, content: u8 },
    PushLong { repo: u8, content: u8 },
    Mount { from: u8, to: u8, content: u8 },
    DeleteBlob { repo: u8, content: u8 },
    PutManifest { repo: u8, content: u8, tag: u8 },
    DeleteManifest { repo: u8, content: u8 },
    DeleteTag { repo: u8, tag: u8 },
    Look { repo: u8 },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let (repo, content, tag) = (0..3u8, 0..4u8, 0..3u8);
    let pair = (repo.clone(), content.clone());
    prop_oneof![
        4 => pair.clone().prop_map(|(repo, content)| Step::PushBlob { repo, content }),
        1 => pair.clone().prop_map(|(repo, content)| Step::PushLong { repo, content }),
        2 => (repo.clone(), repo.clone(), content.clone())
            .prop_map(|(from, to, content)| Step::Mount { from, to, content }),
        1 => pair.clone().prop_map(|(repo, content)| Step::DeleteBlob { repo, content }),
        4 => (repo.clone(), content.clone(), tag.clone())
            .prop_map(|(repo, content, tag)| Step::PutManifest { repo, content, tag }),
        2 => pair.prop_map(|(repo, content)| Step::DeleteManifest { repo, content }),
        1 => (repo.clone(), tag).prop_map(|(repo, tag)| Step::DeleteTag { repo, tag }),
        2 => repo.prop_map(|repo| Step::Look { repo }),
        1 => Just(Step::Restart),
    ]
}

/// What one repository must hold.
#[derive(Clone, Debug, Default)]
struct Repo {
    blobs: BTreeSet<u8>,
    long: BTreeSet<u8>,
    manifests: BTreeSet<u8>,
    tags: BTreeMap<u8, u8>,
}

fn content(number: u8) -> Vec<u8> {
    vec![number; 100 + usize::from(number) * 20_000]
}

fn blob(number: u8) -> Digest {
    Digest::sha256(&content(number))
}

fn manifest(number: u8) -> Vec<u8> {
    image(&blob(number), content(number).len(), "")
}

#[derive(Default)]
struct Model {
    repos: BTreeMap<String, Repo>,
}

impl Model {
    fn repo(&mut self, client: usize, number: u8) -> (String, &mut Repo) {
        let name = format!("client{client}/r{number}");
        let repo = self.repos.entry(name.clone()).or_default();
        (name, repo)
    }

    /// Sends one step and compares the answer.
    fn run(&mut self, registry: &Registry, client: usize, step: &Step) {
        match *step {
            Step::PushBlob { repo, content: number } => {
                let (name, repo) = self.repo(client, repo);
                registry.push_blob(&name, &content(number));
                repo.blobs.insert(number);
            }
            Step::PushLong { repo, content: number } => {
                let (name, repo) = self.repo(client, repo);
                let bytes = content(number);
                let path = format!("/v2/{name}/blobs/uploads/?digest={}", sha512(&bytes));
                registry.send("POST", &path, &[], &bytes).expect(201);
                repo.long.insert(number);
            }
            Step::Mount { from, to, content } => {
                let (from, source) = self.repo(client, from);
                let held = source.blobs.contains(&content);
                let (to, target) = self.repo(client, to);
                let path = format!("/v2/{to}/blobs/uploads/?mount={}&from={from}", blob(content));
                let answer = registry.send("POST", &path, &[], b"");
                let answer = answer.expect(if held { 201 } else { 202 });
                if held {
                    target.blobs.insert(content);
                } else {
                    registry.delete(answer.header("location").unwrap()).expect(204);
                }
            }
            Step::DeleteBlob { repo, content } => {
                let (name, repo) = self.repo(client, repo);
                let held = repo.blobs.remove(&content);
                let answer = registry.delete(&format!("/v2/{name}/blobs/{}", blob(content)));
                answer.expect(if held { 202 } else { 404 });
            }
            Step::PutManifest { repo, content, tag } => {
                let (name, repo) = self.repo(client, repo);
                let held = repo.blobs.contains(&content);
                let bytes = manifest(content);
                let answer = registry.put_manifest(&name, &format!("t{tag}"), &bytes);
                answer.expect(if held { 201 } else { 400 });
                if held {
                    repo.manifests.insert(content);
                    repo.tags.insert(tag, content);
                }
            }
            Step::DeleteManifest { repo, content } => {
                let (name, repo) = self.repo(client, repo);
                let held = repo.manifests.remove(&content);
                repo.tags.retain(|_, named| *named != content);
                let digest = Digest::sha256(&manifest(content));
                let answer = registry.delete(&format!("/v2/{name}/manifests/{digest}"));
                answer.expect(if held { 202 } else { 404 });
            }
            Step::DeleteTag { repo, tag } => {
                let (name, repo) = self.repo(client, repo);
                let held = repo.tags.remove(&tag).is_some();
                let answer = registry.delete(&format!("/v2/{name}/manifests/t{tag}"));
                answer.expect(if held { 202 } else { 404 });
            }
            Step::Look { repo } => {
                let (name, repo) = self.repo(client, repo);
                look(registry, &name, repo);
            }
            // The test restarts between steps of all clients.
            Step::Restart => {}
        }
    }
}

/// Compares everything that a repository shows.
fn look(registry: &Registry, name: &str, repo: &Repo) {
    for number in 0..4 {
        let status = |held: bool| if held { 200 } else { 404 };
        let answer = registry.get(&format!("/v2/{name}/blobs/{}", blob(number)));
        let answer = answer.expect(status(repo.blobs.contains(&number)));
        assert!(answer.status == 404 || answer.body == content(number));
        let long = sha512(&content(number));
        let answer = registry.head(&format!("/v2/{name}/blobs/{long}"));
        answer.expect(status(repo.long.contains(&number)));
        let bytes = manifest(number);
        let path = format!("/v2/{name}/manifests/{}", Digest::sha256(&bytes));
        let answer = registry.get(&path).expect(status(repo.manifests.contains(&number)));
        assert!(answer.status == 404 || answer.body == bytes);
    }
    for tag in 0..3 {
        let answer = registry.get(&format!("/v2/{name}/manifests/t{tag}"));
        match repo.tags.get(&tag) {
            Some(named) => assert_eq!(answer.expect(200).body, manifest(*named)),
            None => drop(answer.expect(404)),
        }
    }
    let answer = registry.get(&format!("/v2/{name}/tags/list"));
    if repo.manifests.is_empty() {
        answer.expect(404);
    } else {
        let tags: Vec<String> = repo.tags.keys().map(|tag| format!("t{tag}")).collect();
        assert_eq!(answer.expect(200).json()["tags"], serde_json::json!(tags));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn several_clients_get_what_the_model_says(
        histories in proptest::collection::vec(proptest::collection::vec(step(), 1..25), 3)
    ) {
        let mut registry = Registry::start();
        let mut models: Vec<Model> = (0..3).map(|_| Model::default()).collect();
        // Rounds end where a client restarts the server; inside a round they run at once.
        let rounds: Vec<Vec<&[Step]>> = histories
            .iter()
            .map(|steps| steps.split(|step| matches!(step, Step::Restart)).collect())
            .collect();
        for round in 0..rounds.iter().map(Vec::len).max().unwrap_or(0) {
            std::thread::scope(|scope| {
                for (client, model) in models.iter_mut().enumerate() {
                    let (registry, steps) = (&registry, rounds[client].get(round).copied());
                    scope.spawn(move || {
                        for step in steps.unwrap_or_default() {
                            model.run(registry, client, step);
                        }
                    });
                }
            });
            registry = Registry::start_in(registry.stop(), |_| {});
        }
        for model in &models {
            for (name, repo) in &model.repos {
                look(&registry, name, repo);
            }
        }
    }
}
