"""Two processes of two devices each, through JAX's distributed runtime: one run."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import command
import jax
import pytest
from PIL import Image

from radiovae_jax import cli, stages, training
from radiovae_jax.training import distributed, logbook, run_folder

STEPS, STOP = 5, 3
STARTED: list[subprocess.Popen] = []
RUN = [
    "--config=quickstart",
    # Five compilations: as small as can be. Given twice, a tuple's entries add up.
    *[flag for flag in command.TINY if "ch_mult" not in flag],
    "--config.autoencoder.ch_mult=(1,)",
    "--config.loss.disc_num_layers=1",
    "--config.loss.disc_start=0",
    "--config.loss.pixelloss_weight=0.1",  # d_weight below its clamp
    "--config.optimizer.learning_rate=1e-4",  # larger, Adam turns rounding into steps
    "--config.optimizer.disc_learning_rate=1e-4",
    # Seven images in batches of four: the last is filled up, on process 1 alone.
    "--config.data.synthetic.transmitters=7",
    "--config.train.validation_batch_size=4",
    f"--config.train.validate_every={STOP}",
]


def explicit(process: int, port: int) -> tuple[list[str], dict[str, str]]:
    """Returns flags and environment that name the processes by hand."""
    coordinator = f"--coordinator=localhost:{port}"
    return [coordinator, "--processes=2", f"--process={process}"], {}


def slurm(process: int, port: int) -> tuple[list[str], dict[str, str]]:
    """Returns what a Slurm step of two tasks would give; JAX finds the rest."""
    return ["--distributed"], {
        "SLURM_JOB_ID": str(port - 61440),  # JAX's port: 61440 + id % 4096
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
    }


def free_port() -> int:
    """Returns a port that Slurm's rule can name."""
    for port in range(61440, 65536):
        with socket.socket() as probe:
            if probe.connect_ex(("localhost", port)):
                return port
    raise OSError("no free port")


SECOND = [
    *("--config.data.synthetic.transmitters=7", "--config.train.log_every=1"),
    *("--config.optimizer.learning_rate=1e-4", "--config.optimizer.warmup_steps=2"),
    *(
        "--config.train.validation_batch_size=4",
        f"--config.train.validate_every={STOP}",
    ),
]


def start_two(folder, *arguments, named=explicit, run=RUN) -> list[subprocess.Popen]:
    """Starts both processes of a run in `folder`."""
    folders = [f"--config.data.root={folder}/city", f"--workdir={folder / 'run'}"]
    for process, port in enumerate([free_port()] * 2):
        flags, environment = named(process, port)
        words = ["-m", "radiovae_jax.main", *run, *folders, *flags, *arguments]
        environment = command.environment(devices=2) | environment
        STARTED.append(command.python(*words, env=environment))
    return STARTED[-2:]


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    while STARTED:
        STARTED.pop().kill()


def printed_by(processes: list[subprocess.Popen], status: int) -> list[tuple[str, str]]:
    """Waits for all to end with a status; returns what each printed."""
    printed = [process.communicate(timeout=500) for process in processes]
    assert [process.returncode for process in processes] == [status] * 2, printed
    return printed


@pytest.fixture(scope="module", params=["vae", "diffusion"])
def flags(request, trained) -> list[str]:
    """The flags of a tiny run of either stage."""
    if request.param == "vae":
        return RUN
    second = command.tiny_second_stage(trained / "run")
    return [*(flag for flag in second if "transmitters" not in flag), *SECOND]


@pytest.fixture(scope="module")
def pair(flags, tmp_path_factory):
    """A run of two processes, stopped after three steps of five; what each printed."""
    folder = tmp_path_factory.mktemp("pair")
    steps = f"--config.train.steps={STEPS}", f"--config.train.stop_at={STOP}"
    return folder / "run", printed_by(start_two(folder, *steps, run=flags), 0)


@pytest.fixture(scope="module")
def alone(pair, tmp_path_factory):
    """Returns the log of the same run, unbroken, in one process with one device."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    config = run_folder.read_config(pair[0])
    config.train.stop_at = 0
    training.run(stages.make(config, workdir), config, workdir)
    return logbook.read(workdir / "metrics.jsonl")


def check_equal(lines: list[dict], expected: list[dict]) -> None:
    for line, other in zip(lines, expected, strict=True):
        names = {n for n in line | other if n.startswith(("train/", "val/", "step"))}
        assert len(names) >= 9
        for name in names:
            close = pytest.approx(other[name], rel=1e-5, abs=1e-6)
            assert line[name] == close, (line["step"], name)


@pytest.mark.processes
def test_two_processes_give_the_numbers_of_one_and_the_first_alone_writes(pair, alone):
    workdir, ((first, _), (second, second_log)) = pair
    lines = logbook.read(workdir / "metrics.jsonl")
    assert "val/nmse" in lines[-1]
    assert 0 < lines[-1].get("train/d_weight", 1) < 5000  # not at its clamp
    check_equal(lines, alone[:STOP])
    assert "run folder" in first and "run folder" not in second
    assert "step/s" not in second_log  # no progress bar
    assert "validation PSNR" not in second_log
    assert len(list((workdir / "tensorboard").iterdir())) == 1


@pytest.mark.processes
def test_what_two_processes_saved_goes_on_on_one_device_and_on_four(
    pair, alone, flags, tmp_path
):
    assert jax.device_count() == 1
    one, four = (shutil.copytree(pair[0], tmp_path / name) for name in ("one", "four"))
    config = run_folder.read_config(one)
    done = command.main(
        *flags,
        f"--workdir={four}",
        f"--config.data.root={config.data.root}",
        f"--config.train.steps={STEPS}",
        f"--config.train.fsdp={2 if flags is RUN else 4}",
        devices=4,
    )
    assert done.returncode == 0, done.stderr
    config.train.stop_at = 0
    training.run(stages.make(config, one), config, one)
    for workdir in (one, four):
        check_equal(logbook.read(workdir / "metrics.jsonl"), alone)


@pytest.mark.processes
@pytest.mark.parametrize(
    "victim, number, named, words",
    [
        (0, signal.SIGKILL, explicit, "process (0 cannot be|has ended or cannot be)"),
        (1, signal.SIGKILL, slurm, "process (1 has died|has ended or cannot be)"),
        (1, signal.SIGSTOP, explicit, "process 1 has died or hangs.*--heartbeat_s"),
    ],
)
def test_when_one_process_dies_or_hangs_the_other_ends_with_one_message(
    tmp_path, victim, number, named, words
):
    endless = ("--config.train.steps=100000", "--config.data.val_split=")
    processes = start_two(tmp_path, *endless, "--heartbeat_s=10", named=named)
    wait_for_steps(tmp_path / "run" / "metrics.jsonl", processes)
    processes[victim].send_signal(number)
    # A heartbeat late, and the time it takes to say so.
    _, log = processes[1 - victim].communicate(timeout=60)
    assert processes[1 - victim].returncode == 1
    assert re.search(f"error: .*{words}.*same command", log), log
    assert log.count("error: ") == 1, log
    assert "Traceback" not in log and " @ 0x" not in log.replace("    ", " ")


@pytest.mark.processes
@pytest.mark.parametrize(
    "change, flag, words",
    [
        (shutil.rmtree, "", "process 1 of 2: .*val"),
        (
            lambda val: shutil.copy(val / "0.png", val / "1.png"),
            "",
            "content of validation maps of process 1 is not that of process 0.*copy",
        ),
        (str, "--config.seed={}", "config of process 1 is not that of process 0"),
    ],
    ids=["folder", "content", "config"],
)
def test_processes_that_differ_end_in_one_message_before_anything_is_written(
    tmp_path, change, flag, words
):
    for copy in ("0", "1"):
        for split, count in {"train": 6, "val": 3}.items():
            (tmp_path / copy / split).mkdir(parents=True)
            for gray in range(count):
                image = Image.new("L", (32, 32), gray)
                image.save(tmp_path / copy / split / f"{gray}.png")
    change(tmp_path / "1" / "val")

    def named(process, port):
        flags, environment = explicit(process, port)
        flags.append(f"--config.data.root={tmp_path / str(process)}")
        return [*flags, *filter(None, [flag.format(process)])], environment

    processes = start_two(tmp_path, "--config.data.source=folder", named=named)
    for _, log in printed_by(processes, 1):
        assert re.search(f"error: {words}", log.replace("the ", "")), log
        assert log.count("error: ") == 1 and "Traceback" not in log
    assert not (tmp_path / "run").exists()


@pytest.mark.processes
def test_a_notice_to_one_process_saves_one_step_and_ends_both(tmp_path):
    """A pod's preemption reaches a host or two, not all, and as SIGTERM."""
    flags = ("--config.train.steps=100000", "--config.data.val_split=")
    checkpoints = tmp_path / "run" / "checkpoints"
    saved = [0]
    for times in (1, 2):
        processes = start_two(tmp_path, *flags)
        wait_for_steps(tmp_path / "run" / "metrics.jsonl", processes, saved[-1] + 2)
        processes[1].send_signal(signal.SIGTERM)
        printed = printed_by(processes, cli.INTERRUPTED)
        steps = sorted(int(path.name) for path in checkpoints.iterdir())
        assert len(steps) == times, "one step of both processes, and nothing half"
        assert steps[-1] >= saved[-1] + 2
        for _, log in printed:
            assert f"interrupted: saved step {steps[-1]} of 100000" in log
            assert "Traceback" not in log
        saved = steps
    lines = logbook.read(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, saved[-1] + 1))


def wait_for_steps(path, processes: list[subprocess.Popen], steps: int = 2) -> None:
    """Returns once the run has logged so many steps."""
    for _ in range(500):
        if path.exists() and len(logbook.read(path)) >= steps:
            return
        assert all(process.poll() is None for process in processes)
        time.sleep(1)
    raise TimeoutError(path)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"coordinator": "host:1"}, "--processes=0"),
        ({"coordinator": "host", "processes": 2, "process": 1}, "HOST:PORT"),
        ({"coordinator": "host:1", "processes": 2, "process": 2}, "to one less"),
        ({"coordinator": "host:65536", "processes": 2, "process": 1}, "HOST:PORT"),
        ({"process": -2}, "--process=-2"),
        ({"heartbeat_s": 0}, "--heartbeat_s=0"),
        ({"automatic": True, "process": 1}, "leave it out"),
        ({"automatic": True}, "found no cluster .*--coordinator=HOST:PORT"),
    ],
)
def test_half_of_the_coordinates_end_in_one_message(monkeypatch, options, words):
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    # Not what is tested: that the tests' own JAX is up already.
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)
    with pytest.raises(ValueError, match=words):
        distributed.start(**options)
    assert not jax.distributed.is_initialized()


def test_a_port_that_is_not_to_be_had_is_an_error_of_the_coordinator(monkeypatch):
    def refuse(**options):
        raise jax.errors.JaxRuntimeError("UNKNOWN: Failed to start RPC server")

    monkeypatch.setattr("jax.distributed.initialize", refuse)
    with pytest.raises(OSError, match=r"coordinator host:1.*RPC server.*port free"):
        distributed.start(coordinator="host:1", processes=2, process=0)


@pytest.mark.processes
def test_processes_that_do_not_find_each_other_end_in_one_message(tmp_path):
    apart = lambda process, port: explicit(process, port + process)  # noqa: E731
    logs = printed_by(start_two(tmp_path, "--connect_s=2", named=apart), 1)
    for process, (_, log) in enumerate(logs):
        assert f"find each other within 2 s (process {process} of 2" in log
        assert "Traceback" not in log and " @ 0x" not in log
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "error, lost",
    [
        (ValueError("UNKNOWN: Gloo all-reduce failed: closed by peer"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: NCCL operation failed"), True),
        (ValueError("a map is damaged"), False),
        (OSError("UNAVAILABLE"), False),
    ],
)
def test_a_lost_process_is_said_in_words(monkeypatch, error, lost):
    watch = mock.Mock()
    monkeypatch.setattr(distributed, "_watch", watch)
    with pytest.raises(Exception) as caught, distributed.losses_named():
        raise error
    assert ("another process has ended" in str(caught.value)) == lost
    assert (caught.value is error) != lost
    assert watch.stop.call_count == 1
    monkeypatch.setattr(distributed, "is_first", lambda: False)
    monkeypatch.setattr("radiovae_jax.training.partners.end", sys.exit)
    with pytest.raises(SystemExit if lost else type(error)), distributed.losses_named():
        raise error
    # Its message might wait for a process that is gone.
    assert watch.stop.call_count == (1 if lost else 2)
