"""The command line, MLproject and RunConfig say the same; whatever is wrong is one line and its exit code."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from accelmlf.cli import SWITCHES, entry_points, main
from accelmlf.entry_points import ENTRY_POINTS
from accelmlf.models.families import MODELS
from accelmlf.settings.fields import settable_fields
from accelmlf.settings.run import RunConfig
from accelmlf.techniques.catalogue import TECHNIQUES

ROOT = Path(__file__).parents[1]
PROJECT = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]


def run_cli(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def settings_of(entry_point: str) -> set[str]:
    entry = ENTRY_POINTS[entry_point]
    of_runs = set(settable_fields(RunConfig)) - set(entry.set_by_itself) if entry.takes_runs else set()
    return of_runs | (set() if entry.settings_class is None else set(settable_fields(entry.settings_class)))


def test_every_model_has_an_entry_point() -> None:
    assert set(entry_points().commands) == set(ENTRY_POINTS) == {"main", *MODELS, "tune", "ablate", "report", "ui"}
    assert (
        set(PROJECT) == {name for name, entry in ENTRY_POINTS.items() if entry.in_project} == {*ENTRY_POINTS} - {"ui"}
    )


@pytest.mark.parametrize("entry_point", PROJECT)
def test_mlproject_starts_what_the_command_line_has_and_declares_nothing(entry_point: str) -> None:
    flags = {parameter.name for parameter in entry_points().commands[entry_point].params}
    assert flags == settings_of(entry_point) | ({"debug"} if entry_point == "report" else set(SWITCHES))
    # What is not declared travels as it is; what is declared and not in the command would be dropped.
    assert PROJECT[entry_point] == {"command": f"python -m accelmlf {entry_point}"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resnet50", "--epochs", "0"], "epochs=0: outside its range. Give a whole number of at least 1"),
        (["resnet50", "--epochs", "-3"], "epochs=-3: outside its range"),
        (["resnet50", "--epochs", "two"], "epochs=two: not a whole number"),
        (["resnet50", "--epochs", "1.5"], "epochs=1.5: not a whole number"),
        (["resnet50", "--batch_size", "0"], "batch_size=0: outside its range"),
        (["resnet50", "--accumulation_steps", "0"], "accumulation_steps=0: outside its range"),
        (["resnet50", "--learning_rate", "nan"], "learning_rate=nan: outside its range"),
        (["resnet50", "--learning_rate", "0"], "learning_rate=0: outside its range"),
        (["resnet50", "--learning_rate", "inf"], "learning_rate=inf: outside its range"),
        (["resnet50", "--target_accuracy", "1.01"], "target_accuracy=1.01: outside its range"),
        (["resnet50", "--target_accuracy", "96%"], "target_accuracy=96%: not a number"),
        (["resnet50", "--seed", "-1"], "seed=-1: outside its range"),
        (["resnet50", "--train_images", "some"], "train_images=some: not a whole number"),
        (["resnet50", "--tuned", "maybe"], "tuned=maybe: neither true nor false. Use one of true, yes, on, 1"),
        (["resnet50", "--dataset", "cifar11"], "dataset=cifar11: unknown dataset. Did you mean cifar10"),
        (["resnet50", "--pipeline", "Stream"], "pipeline=Stream: unknown pipeline. Did you mean stream?"),
        (["resnet50", "--validation", "train"], "validation=train: unknown validation. Known: split, test"),
        (["resnet50", "--weights", ""], "weights=: empty"),
        (["main", "--model", "resnet"], "model=resnet: unknown model. Did you mean resnet50?"),
        (["resnet50", "--batchsize", "32"], "batchsize=32: there is no such setting. Did you mean batch_size?"),
        (["resnet50", "--tunedd=1"], "tunedd=1: there is no such setting. Did you mean tuned?"),
        (["resnet50", "--optimizer", "sgd"], "optimizer=sgd: there is no such setting"),
        (["resnet50", "--epochs"], "Option '--epochs' requires an argument"),
        (["resnet50", "--epochs", "3", "--epochs", "4"], "epochs=3: given twice"),
        (["resnet50", "tuned"], "Got unexpected extra argument"),
        (["tune", "--n_trials", "0"], "n_trials=0: outside its range. Give a whole number of at least 1"),
        (["tune", "--n_trails", "3"], "n_trails=3: there is no such setting. Did you mean n_trials?"),
        (["tune", "--sampler", "tpee"], "sampler=tpee: unknown sampler. Did you mean tpe?"),
        (["tune", "--batch_sizes", "16,x"], "batch_sizes=16,x: not a comma list of whole numbers"),
        (["tune", "--batch_size", "16"], "batch_size=16: tune sets it by itself. Give batch_sizes"),
        (["tune", "--stop-at-target", "true"], "stop_at_target=true: tune sets it by itself"),
        (["tune", "--validation", "test"], "validation=test: a search that looks at the test set"),
        (["tune", "--study_name", "a b"], "study_name=a b: a name is"),
        (["ablate", "--tuned", "true"], "tuned=true: ablate sets it by itself. Give design=preset"),
        (
            ["ablate", "--accumulation-steps", "2", "--design", "preset"],
            "accumulation_steps=2: design=preset compares the recipe's own arms",
        ),
        (["ablate", "--design", "factorail"], "design=factorail: unknown design. Did you mean factorial?"),
        (["ablate", "--repeats", "0"], "repeats=0: outside its range"),
        (["ablate", "--factors", "amp, amp"], "factors=amp, amp: amp is there twice"),
        (["ablate", "--factors", "amp", "--design", "preset"], "factors=amp: the preset's factors are those of the"),
        (
            ["ablate", "--design", "preset", "--batch_size", "8"],
            "batch_size=8: design=preset compares the recipe's own",
        ),
        (["report", "--model", "vit"], "model=vit: there is no such setting. Known: experiment_name, output"),
        (["ui", "--port", "0"], "port=0: outside its range. Give a whole number of at least 1 up to 65535"),
        (["ui", "--port", "x"], "port=x: not a whole number"),
        (["report", "--experiment", "x"], "experiment=x: there is no such setting. Did you mean experiment_name?"),
        (["resnet50", "--n_trials", "3"], "n_trials=3: there is no such setting"),
        (["resnet50", "--model", "vit"], "model=vit: resnet50 sets it by itself. Give another entry point, or main"),
        (
            ["--dry_run", "vit"],
            "dry_run=vit: it stands before the entry point. Try python -m accelmlf vit --dry_run",
        ),
        (["resnet"], "entry_point=resnet: there is no such entry point. Did you mean resnet50?"),
        (["train"], "entry_point=train: there is no such entry point"),
        (["--epochs", "1"], "epochs=1: it stands before the entry point. Try python -m accelmlf main --epochs 1"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    code, out, err = run_cli(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("accelmlf: error: ") and err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize("spelling", ["--dry_run", "--dry-run", "--dry_run=TRUE"])
def test_a_dry_run_prints_settings_and_techniques_and_trains_nothing(
    capsys: pytest.CaptureFixture[str], spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = run_cli(capsys, "vit", "--tuned", spelling, "--batch-size", "24", "--device", "cpu")
    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if line.startswith("  "))
    assert lines["batch_size"] == "24"
    assert lines["tuned"] == "true"
    for word in TECHNIQUES:
        assert word in out
    assert "not available: it needs CUDA" in out
    assert list(tmp_path.iterdir()) == []


def test_dashes_and_underscores_mean_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    _, dashes, _ = run_cli(capsys, "resnet50", "--dry-run", "--train-images", "100")
    _, underscores, _ = run_cli(capsys, "resnet50", "--dry_run", "--train_images", "100")
    _, other, _ = run_cli(capsys, "resnet50", "--dry_run", "--train_images", "101")
    assert dashes == underscores != other


def test_the_help_of_an_entry_point_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_cli(capsys, "main", "--help")
    assert code == 0
    for name in settable_fields(RunConfig):
        assert f"--{name} " in out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--techniques", "pin_memory"], 5, "techniques=pin_memory: this device cannot run it: it needs CUDA"),
        (["--techniques", "amp,apm"], 2, "techniques=amp,apm: unknown techniques. Did you mean amp?"),
        (["--device", "gpu"], 2, "device=gpu: not a device"),
        (["--device", "cuda:7"], 5, "device=cuda:7: torch"),
        (["--dataset", "folder"], 3, "data_dir=data: there is no folder"),
        (["--weights", "./nowhere.safetensors"], 3, "weights=./nowhere.safetensors"),
        (["--weights", "pretrained"], 3, "weights=pretrained: timm/resnet50.tv_in1k is no file or folder here"),
        (["--train_images", "5"], 3, "train_images=5: cannot be drawn"),
        (["--batch_size", "1"], 2, "batch_size=1: the BatchNorm of resnet50"),
    ],
)
def test_what_only_the_machine_can_tell_is_one_line_and_its_code(
    store: object, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    ended, _, err = run_cli(capsys, "resnet50", "--device", "cpu", *arguments) if "--device" not in arguments else (
        run_cli(capsys, "resnet50", *arguments)
    )  # fmt: skip
    lines = [line for line in err.splitlines() if line.startswith("accelmlf: error: ")]
    assert (ended, len(lines)) == (code, 1)
    assert says in lines[0]
    assert "Traceback" not in err


def test_debug_shows_the_traceback(store: object, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = run_cli(capsys, "resnet50", "--device", "cuda:7", "--debug")
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("accelmlf: error: device=cuda:7")


@pytest.mark.parametrize("given", [["--debug", "false"], ["--debug=NO"], ["--epochs", "two"]])
def test_without_debug_there_is_none(capsys: pytest.CaptureFixture[str], given: list[str]) -> None:
    _, _, err = run_cli(capsys, "resnet50", "--learning_rate", "fast", *given)
    assert "Traceback" not in err and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("module", ["accelmlf resnet50", "accelmlf.tracking.project -e resnet50"])
@pytest.mark.parametrize("variables", [{}, {"MLFLOW_RUN_ID": "abc"}], ids=["alone", "under mlflow run"])
def test_a_broken_environment_says_how_to_mend_it(tmp_path: Path, module: str, variables: dict[str, str]) -> None:
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "__init__.py").write_text("from mlflow_that_is_gone import nothing\n")
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin", **variables}
    command = [sys.executable, "-m", *module.split()]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 70
    assert ended.stderr.startswith("accelmlf: error: environment=")
    assert "Run scripts/run again" in ended.stderr
    assert ended.stderr.count("\n") == 1
