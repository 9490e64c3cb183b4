import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpnsr.runtime.command import jobs
from lpnsr.runtime.command.jobs import Job, JobError, JobPlan, Naming


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


def plan(*inputs, out="out", replace=False, **naming):
    paths = [Path(name) for name in inputs]
    planned = jobs.plan(paths, out and Path(out), Naming(**naming), replace=replace).jobs
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


def test_folders_may_have_dots_in_their_names(here):
    touch("a.jpg", "old.gif/b")
    for name in ("v1.2", "trip.2024", ".cache", "old.gif"):
        assert plan("a.jpg", out=name) == [("a.jpg", f"{name}/a.png")]


def test_without_an_output_they_go_beside_the_inputs(here):
    touch("a.jpg", "x/b.png", "in/c.png", "in/deep/d.jpg", "in/deep/d.webp", "in/c_x4.png")
    assert plan("a.jpg", "x/b.png", "in", out=None, mark="_x4", replace=True) == [
        ("a.jpg", "a_x4.png"),
        ("x/b.png", "x/b_x4.png"),
        ("in/c.png", "in/c_x4.png"),
        ("in/deep/d.jpg", "in/deep/d_jpg_x4.png"),
        ("in/deep/d.webp", "in/deep/d_webp_x4.png"),
    ]


def test_pictures_that_are_not_read_are_named_with_the_reason(here):
    touch("in/a.jpg", "in/a.CR2", "in/b.psd", "in/notes.txt", "in/sub/c.nef", "d.dng")
    planned = jobs.plan([Path("in"), Path("d.dng")], Path("out"))
    assert planned.jobs == [Job(Path("in/a.jpg"), Path("out/a.png"))]
    assert {str(file): reason.split(";")[0] for file, reason in planned.unread.items()} == {
        "in/a.CR2": "is a camera's raw file",
        "in/b.psd": "is of a kind that is not read (PSD)",
        "in/sub/c.nef": "is a camera's raw file",
        "d.dng": "is a camera's raw file",
    }
    planned = jobs.plan([Path("in")], Path("out"), Naming(pattern="*.jpg"))
    assert len(planned.jobs) == 1 and not planned.unread


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


def test_an_unreadable_folder_is_left_out_and_said(here, monkeypatch):
    touch("in/a.png", "in/lost/b.png")
    scan, said = os.scandir, []

    def scandir(path):
        if str(path).endswith("lost"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    (job,) = jobs.plan([Path("in")], Path("out"), warn=said.append).jobs
    assert job.source == Path("in/a.png")
    assert said == ["warning: in/lost is left out: Permission denied"]


def test_names_that_differ_in_case_do_not_clash(here):
    touch("in/a.png", "in/A.jpg", "in/b.jpg", "in/b.JPG")
    found = dict(plan("in"))
    assert found["in/A.jpg"] == "out/A_jpg.png" and found["in/a.png"] == "out/a_png.png"
    assert found["in/b.JPG"] == "out/b_JPG.png" and found["in/b.jpg"] == "out/b_jpg_2.png"


def test_pipes_are_not_waited_for(here):
    touch("in/a.png")
    os.mkfifo(here / "in" / "b.png")
    assert plan("in") == [("in/a.png", "out/a.png")]
    with pytest.raises(JobError, match=r"in/b\.png is a pipe or device"):
        plan("in/b.png")


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


def test_names_that_still_clash_are_numbered(here):
    touch("x/a.jpg", "y/a.jpg")
    assert plan("x/a.jpg", "y/a.jpg") == [
        ("x/a.jpg", "out/a_jpg.png"),
        ("y/a.jpg", "out/a_jpg_2.png"),
    ]
    touch("in/a.jpg", "in/a.png", "in/a_jpg.webp")
    assert [target for _, target in plan("in")] == [
        "out/a_jpg.png",
        "out/a_png.png",
        "out/a_jpg_2.png",
    ]


def test_outputs_follow_format_and_mark(here):
    touch("in/a.b.jpg", "in/c.png")
    assert plan("in", suffixes=(".tif", ".tiff"), mark="_x4") == [
        ("in/a.b.jpg", "out/a.b_x4.tif"),
        ("in/c.png", "out/c_x4.tif"),
    ]
    assert plan("in/c.png", out="big.TIFF", suffixes=(".tif", ".tiff"), mark="_x4") == [
        ("in/c.png", "big.TIFF")
    ]


def test_a_pattern_chooses_from_folders(here):
    touch("in/IMG_1.JPG", "in/sub/img_2.jpg", "in/img_3.png", "other.png")
    assert [source for source, _ in plan("in", "other.png", pattern="img_*.jpg")] == [
        "in/IMG_1.JPG",
        "in/sub/img_2.jpg",
        "other.png",
    ]
    with pytest.raises(JobError, match=r"in holds no picture called x\* \("):
        plan("in", pattern="x*")


def test_outputs_beside_the_inputs_are_not_upscaled_again(here):
    touch("in/a.png", "in/sub/b.jpg", "in/a_x4.png")
    expected = [("in/a.png", "in/a_x4.png"), ("in/sub/b.jpg", "in/sub/b_x4.png")]
    assert plan("in", out="in", mark="_x4", replace=True) == expected
    assert len(plan("in", out="out", mark="_x4")) == 3


names = st.text("ab_.2", min_size=1, max_size=4).filter(lambda name: not name.startswith("."))
suffixes = st.sampled_from([".jpg", ".png", ".JPG", ".webp"])


@settings(max_examples=100, deadline=None)
@given(st.sets(st.tuples(st.sampled_from(["", "s/"]), names, suffixes), min_size=1), st.booleans())
def test_every_picture_gets_a_name_of_its_own(files, marked):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        touch(*("in/" + "".join(parts) for parts in files))
        planned = plan("in", mark="_x" if marked else "")
        assert planned == plan("in", mark="_x" if marked else "")
        assert len({target for _, target in planned}) == len(planned) == len(files)
        stems = Counter(str(Path(source).with_suffix("")) for source, _ in planned)
        for source, target in planned:
            assert Path(target).parent == Path("out", *Path(source).parts[1:-1])
            stem = Path(source).stem
            assert Path(target).name.startswith(stem)
            taken = [other for other, _ in planned if Path(other).stem.startswith(stem)]
            if stems[str(Path(source).with_suffix(""))] == 1 and len(taken) == 1:
                assert Path(target).name == stem + ("_x" if marked else "") + ".png"


def test_the_same_input_twice_is_one_job(here):
    touch("a.jpg")
    assert plan("a.jpg", "./a.jpg") == [("a.jpg", "out/a.png")]


@pytest.mark.parametrize("replace", [False, True])
def test_an_input_is_never_overwritten(here, replace):
    touch("a.png", "in/b.png")
    os.link("a.png", "link.png")
    for source, out in (("a.png", "."), ("a.png", "a.png"), ("a.png", "link.png"), ("in", "in")):
        with pytest.raises(JobError, match="is the input"):
            plan(source, out=out, replace=replace)


def test_existing_outputs_need_overwrite(here):
    touch("in/a.jpg", "in/b.jpg", "out/a.png")
    with pytest.raises(JobError, match=r"^out/a.png exists; add --skip-existing or --overwrite"):
        plan("in")
    touch("out/b.png")
    with pytest.raises(JobError, match=r"^out/a.png and 1 more exist; add --skip"):
        plan("in")
    assert len(plan("in", replace=True)) == 2


def test_missing_inputs_and_empty_folders_are_refused(here):
    with pytest.raises(JobError, match=r"nothing.jpg does not exist"):
        plan("nothing.jpg")
    touch("in/notes.txt")
    with pytest.raises(JobError, match=r"in holds no picture \(\.apng, "):
        plan("in")


def test_outputs_that_cannot_be_are_refused(here):
    touch("a.jpg", "b.jpg", "file")
    with pytest.raises(JobError, match=r"big.jpg cannot be the output: the format's is .png"):
        plan("a.jpg", out="big.jpg")
    with pytest.raises(JobError, match=r"there can be several"):
        plan("a.jpg", "b.jpg", out="big.png")
    with pytest.raises(JobError, match=r"file exists and is not a folder"):
        plan("a.jpg", out="file")
    with pytest.raises(JobError, match=r"cannot write to file"):
        plan("a.jpg", out="file/out")
    for name in ("x.gif", "x.avif", "x.heic", "x.nef", "x.pgn", "deep/x.JXL"):
        with pytest.raises(JobError, match=rf"{name} cannot be .* {Path(name).suffix.lower()} is"):
            plan("a.jpg", out=name)
    touch("out/a.png/x")
    with pytest.raises(JobError, match=r"out/a.png is a folder"):
        plan("a.jpg", replace=True)


def test_an_unwritable_folder_is_refused(here, monkeypatch):
    touch("a.jpg")
    Path("locked").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    with pytest.raises(JobError, match=r"cannot write to locked"):
        plan("a.jpg", out="locked/new")


def test_planning_makes_nothing(here):
    touch("a.jpg")
    planned = jobs.plan([Path("a.jpg")], Path("out"))
    assert planned == JobPlan([Job(Path("a.jpg"), Path("out/a.png"))], {})
    assert sorted(os.listdir()) == ["a.jpg"]
