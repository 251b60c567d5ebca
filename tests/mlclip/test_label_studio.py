"""Label Studio's exports become manifests; tasks of the client's review come back."""

import json
from pathlib import Path

from mlclip_client.review.choose import Picture, label_studio_task

from mlclip.data import read_dataset
from mlclip.data.read import scan


def annotated(task, *choices, **facts):
    result = [{"type": "choices", "value": {"choices": list(choices)}}, {"type": "rectanglelabels", "value": {}}]
    return task | {"annotations": [*task.get("annotations", []), {"result": result, **facts}]}


def test_tasks_of_a_review_come_back_with_their_labels(tmp_path):
    pictures = [Picture(str(tmp_path / f"{n} ü.png"), ["cat"], "novel: 0.99") for n in range(4)]
    tasks = json.loads(json.dumps(list(map(label_studio_task, pictures))))
    assert tasks[0]["predictions"][0]["result"][0]["value"] == {"choices": ["cat"]}
    assert tasks[0]["data"]["image"] == f"/data/local-files/?d={tmp_path.relative_to('/')}/0 ü.png"
    old = annotated(tasks[0], "wrong", updated_at="2026-01-01T00:00:00Z")
    done = [
        annotated(old, "dog", "fox", updated_at="2026-02-01T00:00:00Z"),
        annotated(tasks[1]),
        annotated(tasks[2], "cat", was_cancelled=True),
        tasks[3] | {"annotations": []},
    ]
    (tmp_path / "export.json").write_text(json.dumps(done))
    found = read_dataset(tmp_path / "export.json")
    assert [(item.path.name, item.labels) for item in found.items] == [("0 ü.png", ("dog", "fox")), ("1 ü.png", ())]
    assert found.classes == ("dog", "fox")


def test_tasks_that_others_made_name_their_file_by_the_image(tmp_path):
    task = annotated({"data": {"image": "/data/local-files/?d=photos/a.png"}}, "cat")
    (tmp_path / "export.json").write_text(f"\ufeff {json.dumps([task, {'data': {}}])}", encoding="utf-8")
    dataset, problems = scan(tmp_path / "export.json")
    assert [(item.path, item.labels) for item in dataset.items] == [(Path("/photos/a.png"), ("cat",))]
    assert [str(problem) for problem in problems] == [
        f"{tmp_path}/export.json:2: error: not a task of Label Studio's JSON export: KeyError 'annotations'"
    ]
