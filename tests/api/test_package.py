"""Packages: the same bytes for the same files, and only what belongs to the code."""

from __future__ import annotations

import hashlib
import io
import os
import random
import shutil
import socket
import subprocess
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surefoot import package
from surefoot.errors import PackageError
from surefoot.package import pack

names = st.text(alphabet="abcdeé .-_", min_size=1, max_size=6).filter(lambda n: n.strip(" .") == n and n != ".env")
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map("/".join), st.binary(max_size=50), min_size=1, max_size=8
)


def lay(folder: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """Write what can be written (a name may be a file or a folder, not both); return it."""
    written = {}
    for name, data in files.items():
        path = folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            continue
        written[name] = data
    return written


def content(folder: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(pack(folder).data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@settings(max_examples=40, deadline=None)
@given(trees, st.integers())
def test_the_same_files_give_the_same_bytes_whatever_wrote_them(files: dict[str, bytes], seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="sf-") as one, tempfile.TemporaryDirectory(prefix="sf-") as two:
        written = lay(Path(one), files)
        shuffled = list(written.items())
        random.Random(seed).shuffle(shuffled)
        lay(Path(two), dict(shuffled))
        for n, path in enumerate(Path(two).rglob("*")):
            os.utime(path, (n, n))
        first, second = pack(one), pack(two)
        assert first.data == second.data
        assert first.sha256 == hashlib.sha256(first.data).hexdigest()
        assert content(Path(one)) == written
        assert list(first.files) == sorted(written)


@settings(max_examples=40, deadline=None)
@given(trees, st.data())
def test_another_byte_gives_another_digest(files: dict[str, bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory(prefix="sf-") as folder:
        written = lay(Path(folder), files)
        before = pack(folder).sha256
        name = data.draw(st.sampled_from(sorted(written)))
        (Path(folder) / name).write_bytes(written[name] + b"x")
        assert pack(folder).sha256 != before


@pytest.mark.skipif(shutil.which("git") is None, reason="compares with git")
@settings(max_examples=80, deadline=None)
@given(
    trees,
    st.lists(
        st.sampled_from(
            [
                "a",
                "b/",
                "/c",
                "*.d",
                "!a",
                "a/*",
                "!a/b",
                "**/e",
                "d/e",
                "*",
                "!*/",
                "!*.py",
                "e/**",
                "a/**/b",
                "#x",
                " ",
            ]
        ),
        max_size=5,
    ),
    st.lists(st.sampled_from(["a", "/b", "!c", "*", "!a", "e/"]), max_size=3),
)
@pytest.mark.process
def test_ignore_files_mean_what_git_means(files: dict[str, bytes], outer: list[str], inner: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="sf-") as temporary:
        folder = Path(temporary)
        written = lay(folder, {"keep": b"", **files})
        (folder / ".gitignore").write_text("\n".join([*outer, "!keep", "!.gitignore"]))
        if (folder / "a").is_dir():
            (folder / "a" / ".gitignore").write_text("\n".join(inner))
            written["a/.gitignore"] = b""
        subprocess.run(
            ["git", "init", "-q", "--template=", temporary],
            check=True,
            env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
        )
        listed = subprocess.run(
            ["git", "-C", temporary, "ls-files", "-z", "--others", "--exclude-standard"],
            check=True,
            capture_output=True,
        ).stdout.decode()
        assert sorted(pack(folder).files) == sorted(filter(None, listed.split("\0")))


def test_what_is_never_code_stays_out(tmp_path: Path) -> None:
    kept = {"train.py": b"", "pkg/__init__.py": b"", "data/small.csv": b"", "checkpoints.py": b""}
    dropped = [
        ".git/HEAD", ".venv/x.py", "env/pyvenv.cfg", "env/lib/x.py", "conda/conda-meta/x", "conda/x.py",
        "pkg/__pycache__/a.pyc", "b.pyc", ".mypy_cache/a", "node_modules/a.js",
        "dist/a.whl", "x.egg-info/PKG-INFO", ".env", ".env.local", "pkg/.env",
    ]  # fmt: skip
    lay(tmp_path, kept | dict.fromkeys(dropped, b""))
    assert sorted(pack(tmp_path).files) == sorted(kept)


def test_surefootignore_goes_over_gitignore_and_can_take_back(tmp_path: Path) -> None:
    lay(tmp_path, {"train.py": b"", "data/a": b"", "data/b": b"", "dist/x": b"", "local": b""})
    assert "dist/x" not in pack(tmp_path).files
    (tmp_path / ".gitignore").write_text("data/*\n")
    (tmp_path / ".surefootignore").write_text("!data/b\n!dist\nlocal\n")
    assert set(pack(tmp_path).files) == {".gitignore", ".surefootignore", "train.py", "data/b", "dist/x"}


def test_the_repositorys_ignore_files_reach_into_a_folder_of_it(tmp_path: Path) -> None:
    lay(tmp_path, {".git/HEAD": b"", ".gitignore": b"data/\n", "job/train.py": b"", "job/data/x": b""})
    assert pack(tmp_path / "job").files == ("train.py",)
    # Outside a repository, what lies above has no say.
    shutil.rmtree(tmp_path / ".git")
    assert pack(tmp_path / "job").files == ("data/x", "train.py")


def test_who_names_an_ignored_folder_means_it(tmp_path: Path) -> None:
    lay(tmp_path, {".git/HEAD": b"", ".gitignore": b"tmp/\n", "tmp/job/train.py": b""})
    assert pack(tmp_path / "tmp/job").files == ("train.py",)


def test_modes_are_two_and_times_one(tmp_path: Path) -> None:
    lay(tmp_path, {"a.py": b"", "run.sh": b""})
    (tmp_path / "run.sh").chmod(0o700)
    (tmp_path / "a.py").chmod(0o600)
    with zipfile.ZipFile(io.BytesIO(pack(tmp_path).data)) as archive:
        assert {info.filename: oct(info.external_attr >> 16) for info in archive.infolist()} == {
            "a.py": "0o100644",
            "run.sh": "0o100755",
        }
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


# ---- links and what is no file


def test_links_inside_are_followed(tmp_path: Path) -> None:
    lay(tmp_path, {"lib/a.py": b"a"})
    (tmp_path / "b.py").symlink_to("lib/a.py")
    (tmp_path / "copy").symlink_to("lib")
    assert content(tmp_path) == {"b.py": b"a", "copy/a.py": b"a", "lib/a.py": b"a"}


def test_links_out_of_the_folder_are_followed(tmp_path: Path) -> None:
    lay(tmp_path / "lib", {"a.py": b"a", "sub/b.py": b"b"})
    lay(tmp_path / "code", {"train.py": b""})
    (tmp_path / "code/lib").symlink_to("../lib")
    (tmp_path / "code/one.py").symlink_to(tmp_path / "lib/a.py")
    assert content(tmp_path / "code") == {"train.py": b"", "lib/a.py": b"a", "lib/sub/b.py": b"b", "one.py": b"a"}


@pytest.mark.parametrize(
    ("link", "target", "told"),
    [
        ("out", "missing", "leads nowhere (to 'missing')"),
        ("sub/round/", "..", "leads to a folder that it lies in"),
        ("self", "self", "leads nowhere"),
        ("home/", "{home}", "leads to the home folder"),
        ("above/", "{home}/..", "leads to a folder above the home folder"),
        ("device", "/dev/null", "leads to a socket, pipe or device"),
    ],
)
def test_other_links_stay_out_and_are_told(
    tmp_path: Path, link: str, target: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "users" / "me"
    monkeypatch.setenv("HOME", str(home))
    lay(home, {"secret": b""})
    folder = tmp_path / "code"
    lay(folder, {"train.py": b"", "sub/a": b""})
    (folder / link.rstrip("/")).symlink_to(target.format(home=home))
    packed = pack(folder)
    assert packed.files == ("sub/a", "train.py")
    ((path, why),) = [(out.path, out.why) for out in packed.left_out]
    assert path == link
    assert told in why


def test_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    lay(tmp_path, {"a/x.py": b"", "b/y.py": b""})
    (tmp_path / "a/to_b").symlink_to("../b")
    (tmp_path / "b/to_a").symlink_to("../a")
    packed = pack(tmp_path)
    assert set(packed.files) == {"a/x.py", "a/to_b/y.py", "b/y.py", "b/to_a/x.py"}
    assert {out.path for out in packed.left_out} == {"a/to_b/to_a/", "b/to_a/to_b/"}


# ---- what a program finds in its folder


def test_empty_folders_exist(tmp_path: Path) -> None:
    lay(tmp_path, {"train.py": b"", "only_ignored/__pycache__/a.pyc": b""})
    (tmp_path / "out/deep").mkdir(parents=True)
    packed = pack(tmp_path)
    assert packed.files == ("train.py",)
    with zipfile.ZipFile(io.BytesIO(packed.data)) as archive:
        modes = {info.filename: oct(info.external_attr >> 16) for info in archive.infolist() if info.is_dir()}
    assert modes == {"only_ignored/": "0o40755", "out/deep/": "0o40755"}


@pytest.mark.parametrize("name", ["dist", "build", "env", "venv", "data", "target", "out", "lib", "bin"])
def test_a_folder_with_python_files_is_code_whatever_its_name(tmp_path: Path, name: str) -> None:
    lay(tmp_path, {"train.py": b"", f"{name}/__init__.py": b"", f"{name}/deep/x.py": b"", f"{name}/deep/y.json": b""})
    packed = pack(tmp_path)
    assert set(packed.files) == {"train.py", f"{name}/__init__.py", f"{name}/deep/x.py", f"{name}/deep/y.json"}
    assert packed.left_out == ()


def test_names_that_no_zip_can_hold_stay_out_and_are_told(tmp_path: Path) -> None:
    lay(tmp_path, {"train.py": b"", "back\\slash": b""})
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")).write_bytes(b"")
    packed = pack(tmp_path)
    assert packed.files == ("train.py",)
    assert {out.path: out.why for out in packed.left_out} == {
        "back\\slash": "since its name has a backslash",
        "caf\\udce9.txt": "since its name is not UTF-8",
    }


# ---- what stays out is told


@settings(max_examples=40, deadline=None)
@given(trees, st.lists(st.sampled_from(["a", "b/", "/c", "*.d", "!a", "a/*", "**/e", "*", "!*/", "e/**"]), max_size=4))
def test_every_file_is_packed_or_told_with_the_line_that_keeps_it_out(
    files: dict[str, bytes], patterns: list[str]
) -> None:
    with tempfile.TemporaryDirectory(prefix="sf-") as temporary:
        folder = Path(temporary)
        written = lay(folder, {"keep": b"", **files})
        (folder / ".gitignore").write_text("\n".join([*patterns, "!keep", "!.gitignore"]))
        packed = pack(folder)
        for name in written:
            outs = [o for o in packed.left_out if o.path == name or (o.path[-1] == "/" and name.startswith(o.path))]
            assert (name in packed.files) != bool(outs), (name, outs)
            for out in outs:
                number = int(out.why.split("line ")[1].split()[0])
                assert out.why == f"by .gitignore line {number} ({patterns[number - 1].strip()})"


def test_which_file_keeps_it_out_is_told_from_the_package(tmp_path: Path) -> None:
    lay(
        tmp_path,
        {".git/HEAD": b"", ".gitignore": b"*.ckpt\n", "job/train.py": b"", "job/sub/x.log": b"", "job/a.ckpt": b""},
    )
    (tmp_path / "job/sub/.gitignore").write_text("# logs\n*.log\n")
    lay(tmp_path, {"job/dist/a.whl": b"", "job/.env": b"", "job/own": b"", "job/.surefootignore": b"own\n"})
    assert {out.path: out.why for out in pack(tmp_path / "job").left_out} == {
        "a.ckpt": "by ../.gitignore line 1 (*.ckpt)",
        "sub/x.log": "by sub/.gitignore line 2 (*.log)",
        "dist/": "by the built-in list (dist, without Python files)",
        ".env": "by the built-in list (.env)",
        "own": "by .surefootignore line 1 (own)",
    }


def test_sockets_and_pipes_stay_out() -> None:
    with tempfile.TemporaryDirectory(prefix="sf-") as folder, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{folder}/s")
        os.mkfifo(f"{folder}/p")
        (Path(folder) / "train.py").write_text("")
        assert pack(folder).files == ("train.py",)


# ---- limits


def test_too_much_names_the_largest_and_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, {"train.py": b"", "small.bin": b"x" * 100})
    for name, size in (("data/large.npy", 60), ("data/larger.npy", 70)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with (tmp_path / name).open("wb") as file:
            file.truncate(size * 2**20)  # sparse: nothing is written
    monkeypatch.setattr(package, "_zip", lambda files: pytest.fail("read before it was weighed"))
    with pytest.raises(PackageError) as raised:
        pack(tmp_path)
    lines = str(raised.value).splitlines()
    assert "130.0 MiB of files, and a package may have 99.0 MiB" in lines[0]
    assert [line.split()[-1] for line in lines[1:3]] == ["data/larger.npy", "data/large.npy"]
    assert ".surefootignore" in lines[-1]


def test_the_zip_keeps_within_what_was_weighed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, {f"{n}/é.py": b"x" * n for n in range(50)})
    size = len(pack(tmp_path).data)
    monkeypatch.setattr(package, "MAX_PACKAGE_BYTES", size)
    assert len(pack(tmp_path).data) == size
    monkeypatch.setattr(package, "MAX_PACKAGE_BYTES", size - 100)
    with pytest.raises(PackageError, match="a package may have"):
        pack(tmp_path)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "MAX_FILES", 3)
    lay(tmp_path, {f"{n}.py": b"" for n in range(4)})
    with pytest.raises(PackageError, match="has 4 files, and a package may have 3"):
        pack(tmp_path)


def test_home_and_what_is_above_it_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "users" / "me"
    lay(home, {"train.py": b""})
    monkeypatch.setenv("HOME", str(home))
    for folder in (home, home.parent, Path("/")):
        with pytest.raises(PackageError, match="home folder"):
            pack(folder)


def test_nothing_to_package(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="nothing to package"):
        pack(tmp_path)
    with pytest.raises(PackageError, match="there is no folder"):
        pack(tmp_path / "nowhere")
