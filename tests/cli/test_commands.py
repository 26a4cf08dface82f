"""What all commands have in common: help on one screen, mistakes in one line, completion."""

import shutil
import subprocess
import sys

import pytest

from flaxcifar import __version__
from flaxcifar.cli import completion
from flaxcifar.cli.command import COMMANDS, load_command
from flaxcifar.config.knobs import KNOBS
from flaxcifar.errors import UserError


def flaxcifar(*arguments):
    command = [sys.executable, "-m", "flaxcifar", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_and_has_an_example(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = load_command(name).parser().format_help().splitlines()
    assert len(lines) < 24  # and the prompt
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"usage: flaxcifar {name} ")
    assert any(line.startswith(f"    flaxcifar {name} ") for line in lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_in_the_flags_is_one_line(name):
    with pytest.raises(UserError) as error:
        load_command(name).main(["--tpo", "3"])
    assert "\n" not in str(error.value)


def test_commands_are_run_by_name():
    found = flaxcifar("train", "--config", "nowhere.py")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "flaxcifar: nowhere.py: no such config file\n"
    assert flaxcifar("--version").stdout == f"flaxcifar {__version__}\n"


@pytest.mark.parametrize(
    "command", ["train", "aot", "doctor", "verify_resume", "keras_weights read x.h5 --workdir x"]
)
def test_every_config_flag_takes_a_name(command):
    name, *flags = command.split()
    with pytest.raises(UserError, match="no config 'vg'; did you mean 'vgg'"):
        load_command(name).main([*flags, "--config", "vg"])


def test_an_unknown_config_ends_with_code_2():
    found = flaxcifar("train", "--config", "quikstart")
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    assert found.stderr.startswith("flaxcifar: no config 'quikstart'; did you mean 'quickstart'?")


def test_an_unknown_command_is_one_line():
    found = flaxcifar("trian")
    assert found.returncode == 2
    assert found.stderr.startswith("flaxcifar: no command 'trian'; did you mean 'train'?")
    assert found.stderr.count("\n") == 1


def test_help_names_every_command():
    lines = flaxcifar().stdout.splitlines()
    assert len(lines) < 24 and max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.startswith("    ")][:-1] == list(COMMANDS)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    "line, expected",
    [
        ("tra", "train"),
        ("train --wor", "--workdir"),
        ("train --config.total_e", "--config.total_epochs"),
        ("evaluate --split va", "validation"),
        ("train --config.precision bf", "bfloat16"),
        ("train --config.model.name vg", "vgg16"),
        ("train --config.optimizer.name mu", "muon"),
        ("predict --config", ""),
        ("train --config qui", "quickstart"),
        ("train --config speed9", "speed94 speed96"),
        ("train --config /etc/hostn", "/etc/hostname"),
    ],
)
def test_bash_completes(line, expected, tmp_path):
    script = tmp_path / "flaxcifar.bash"
    script.write_text(completion.script("bash"))
    words = ["flaxcifar", *line.split()]
    ask = (
        f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; "
        '_shtab_flaxcifar; echo "${COMPREPLY[*]}"'
    )
    found = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_files_and_folders_are_completed(shell):
    text = completion.script(shell)
    assert "--draw" in text and completion.KINDS["FILE"][shell] in text


def test_config_keys_are_described_by_their_declarations():
    text = completion.script("fish")
    assert KNOBS["batch_size"].doc in text and KNOBS["gradient_clip"].doc in text
    assert "`" not in text
