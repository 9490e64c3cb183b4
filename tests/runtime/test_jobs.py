import os
from pathlib import Path

import pytest

from lpnsr.runtime import jobs
from lpnsr.runtime.jobs import Job, JobError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names):
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def plan(*inputs, out="out", **options):
    planned = jobs.plan([Path(name) for name in inputs], Path(out), **options)
    return [(job.source.as_posix(), job.target.as_posix()) for job in planned]


def test_one_file_into_a_file(here):
    touch("a.jpg")
    assert plan("a.jpg", out="big.png") == [("a.jpg", "big.png")]
    assert plan("a.jpg", out="new/big.PNG") == [("a.jpg", "new/big.PNG")]


def test_files_into_a_folder(here):
    touch("x/a.jpg", "b.webp")
    assert plan("x/a.jpg", "b.webp") == [("x/a.jpg", "out/a.png"), ("b.webp", "out/b.png")]


def test_a_folder_called_png_is_a_folder(here):
    touch("a.jpg", "out.png/b")
    assert plan("a.jpg", out="out.png") == [("a.jpg", "out.png/a.png")]


def test_a_folder_is_mirrored_in_order(here):
    touch("in/b.JPG", "in/sub/deep/c.tiff", "in/a.png", "in/notes.txt", "in/.hidden.png")
    touch("in/.git/x.png")
    assert plan("in") == [
        ("in/a.png", "out/a.png"),
        ("in/b.JPG", "out/b.png"),
        ("in/sub/deep/c.tiff", "out/sub/deep/c.png"),
    ]


def test_links_in_a_folder_are_not_followed(here):
    touch("in/a.png", "other/b.png")
    os.symlink(here / "other", here / "in" / "folder")
    os.symlink(here / "other" / "b.png", here / "in" / "b.png")
    assert plan("in") == [("in/a.png", "out/a.png")]


def test_an_output_inside_the_input_is_not_read(here):
    touch("in/a.jpg", "in/out/b.jpg")
    assert plan("in", out="in/out") == [("in/a.jpg", "in/out/a.png")]


def test_an_output_that_is_the_input_folder(here):
    touch("in/a.jpg")
    assert plan("in", out="in") == [("in/a.jpg", "in/a.png")]


def test_equal_names_keep_their_suffixes(here):
    touch("in/a.jpg", "in/a.webp", "in/b.jpg")
    assert plan("in") == [
        ("in/a.jpg", "out/a_jpg.png"),
        ("in/a.webp", "out/a_webp.png"),
        ("in/b.jpg", "out/b.png"),
    ]


def test_names_that_still_clash_are_refused(here):
    touch("x/a.jpg", "y/a.jpg")
    with pytest.raises(JobError, match=r"x/a.jpg and y/a.jpg would both become out/a_jpg.png"):
        plan("x/a.jpg", "y/a.jpg")
    touch("in/a.jpg", "in/a.png", "in/a_jpg.webp")
    with pytest.raises(JobError, match="separate runs"):
        plan("in")


def test_the_same_input_twice_is_one_job(here):
    touch("a.jpg")
    assert plan("a.jpg", "./a.jpg") == [("a.jpg", "out/a.png")]


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_overwritten(here, overwrite):
    touch("a.png", "in/b.png")
    os.link("a.png", "link.png")
    for source, out in (("a.png", "."), ("a.png", "a.png"), ("a.png", "link.png"), ("in", "in")):
        with pytest.raises(JobError, match="is the input"):
            plan(source, out=out, overwrite=overwrite)


def test_existing_outputs_need_overwrite(here):
    touch("in/a.jpg", "in/b.jpg", "out/a.png")
    with pytest.raises(JobError, match=r"^out/a.png exists; add --overwrite"):
        plan("in")
    touch("out/b.png")
    with pytest.raises(JobError, match=r"^out/a.png and 1 more exist; add --overwrite"):
        plan("in")
    assert len(plan("in", overwrite=True)) == 2


def test_missing_inputs_and_empty_folders_are_refused(here):
    with pytest.raises(JobError, match=r"nothing.jpg does not exist"):
        plan("nothing.jpg")
    touch("in/notes.txt")
    with pytest.raises(JobError, match=r"in holds no picture \(\.bmp, "):
        plan("in")


def test_outputs_that_cannot_be_are_refused(here):
    touch("a.jpg", "b.jpg", "file")
    with pytest.raises(JobError, match=r"only PNG files are written"):
        plan("a.jpg", out="big.jpg")
    with pytest.raises(JobError, match=r"there can be several pictures"):
        plan("a.jpg", "b.jpg", out="big.png")
    with pytest.raises(JobError, match=r"file exists and is not a folder"):
        plan("a.jpg", out="file")
    with pytest.raises(JobError, match=r"cannot write to file"):
        plan("a.jpg", out="file/out")
    touch("out/a.png/x")
    with pytest.raises(JobError, match=r"out/a.png is a folder"):
        plan("a.jpg", overwrite=True)


def test_an_unwritable_folder_is_refused(here, monkeypatch):
    touch("a.jpg")
    Path("locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    with pytest.raises(JobError, match=r"cannot write to locked"):
        plan("a.jpg", out="locked/new")


def test_planning_makes_nothing(here):
    touch("a.jpg")
    assert jobs.plan([Path("a.jpg")], Path("out")) == [Job(Path("a.jpg"), Path("out/a.png"))]
    assert sorted(os.listdir()) == ["a.jpg"]
