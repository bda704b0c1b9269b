use super::*;

fn key() -> AttemptRef {
    AttemptRef {
        run: RunId::new("run-1").expect("valid"),
        task: TaskId(7),
        attempt: AttemptId { epoch: Epoch(3), number: 12 },
    }
}

fn assignment() -> Assignment {
    Assignment {
        key: key(),
        stage: Stage::Lint,
        tool: Some(ToolName::new("ruff").expect("valid")),
        shard: 2,
        timeout: Duration::from_millis(1_500),
        inputs: StageInputs {
            makers: [(Digest::of(b"output"), NodeId::new("backend-dev").expect("valid"))].into(),
            manifest: Some(Digest::of(b"manifest")),
            spec: Some(Digest::of(b"spec")),
            plan: Some(Digest::of(b"plan")),
            outputs: vec![Digest::of(b"a"), Digest::of(b"b")],
            failed: vec![UnfinishedTask {
                tool: ToolName::new("mypy").expect("valid"),
                shard: 0,
                reason: "no node".into(),
            }],
        },
        tree_root: Some("/tree".into()),
        cpu_slots: 2,
        capabilities: ["a".to_owned(), "b".to_owned()].into(),
    }
}

#[test]
fn an_assignment_survives_the_wire() {
    assert_eq!(Assignment::from_proto(assignment().to_proto()), Ok(assignment()));
}

#[test]
fn an_assignment_that_breaks_the_protocol_is_refused_by_the_name_of_its_field() {
    type Break = fn(&mut pb::Assign);
    let cases: [(&str, Break); 9] = [
        ("attempt", |a| a.attempt = None),
        ("attempt.run_id", |a| a.attempt.as_mut().expect("set").run_id = "../x".into()),
        ("stage", |a| a.stage = 99),
        ("tool", |a| a.tool = String::new()),
        ("tool", |a| a.tool = "/bin/sh".into()),
        ("timeout", |a| a.timeout = None),
        ("timeout", |a| a.timeout = Some(prost_types::Duration { seconds: -1, nanos: 0 })),
        ("tree_root", |a| a.tree_root = "relative".into()),
        ("inputs.plan", |a| a.inputs.as_mut().expect("set").plan = "abc".into()),
    ];
    for (field, damage) in cases {
        let mut message = assignment().to_proto();
        damage(&mut message);
        let error = Assignment::from_proto(message).expect_err(field).to_string();
        assert!(error.contains(&format!("`{field}`")), "{field}: {error}");
    }
}

#[test]
fn a_result_survives_the_wire_and_altered_bytes_do_not() {
    let data = b"{}".to_vec();
    let result = AttemptResult {
        key: key(),
        executor: NodeId::new("backend-dev").expect("valid"),
        incarnation: Incarnation(9),
        ending: Ending::Output {
            output: TaskOutput { digest: Digest::of(&data), size: 2 },
            data: Some(data),
        },
        measured: Measured {
            executable: Some("ruff".into()),
            wall: Duration::from_millis(20),
            cpu: Duration::from_millis(10),
        },
    };
    assert_eq!(AttemptResult::from_proto(result.to_proto()), Ok(result.clone()));

    let mut altered = result.to_proto();
    if let Some(pb::task_result::Ending::Output(output)) = &mut altered.ending {
        output.data = Some(b"[]".to_vec());
    }
    assert!(AttemptResult::from_proto(altered).is_err());

    let failed = AttemptResult { ending: Ending::Failure("disk full".into()), ..result };
    assert_eq!(AttemptResult::from_proto(failed.to_proto()), Ok(failed));
}

#[test]
fn a_load_that_is_no_share_is_clamped() {
    let beat = pb::Beat {
        number: 1,
        running_tasks: 2,
        capabilities_in_use: 1,
        cpu: f64::NAN,
        memory: 7.0,
        ..pb::Beat::default()
    };
    let load = load(&beat);
    assert_eq!((load.cpu, load.memory), (0.0, 1.0));
}
