import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from typer.testing import CliRunner

from dataset_conversion.cli import app
from dataset_conversion.options import Options
from dataset_conversion.organs import SYNONYMS, canonical, is_lesion_of
from dataset_conversion.union import _read_folds, convert_union, image_digest, parse_request, read_raw_dataset
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom.contrast import MR_T1_IN_PHASE, MR_T1_OPPOSED_PHASE
from nnunet_ext.phantom.msd import write_msd
from tests.dataset_conversion.converting import convert_msd
from tests.dataset_conversion.dataset_truth import folds, report, snapshot

SHAPE = (8, 20, 24)
OPTIONS = Options(dataset_id=520)
HEADERS = Options(check="headers")


def convert(folder, number, name, organs, cases, seed, **options):
    layout = write_msd(
        folder, task=f"Task{number}_{name}", organs=organs, cases=cases, test_cases=0, shape=SHAPE, seed=seed, **options
    )
    return convert_msd(layout.folder, HEADERS), layout


@pytest.fixture
def sources(raw, tmp_path):
    """Three organs; the spleen numbered otherwise; the liver with its tumour."""
    full, _ = convert(tmp_path, 91, "Full", ("spleen", "left_kidney", "liver"), 5, 1)
    spleen, _ = convert(tmp_path, 92, "Spleen", ("spleen",), 2, 2)
    liver, _ = convert(tmp_path, 93, "Liver", ("liver", "liver_tumour"), 2, 3, lesions=True)
    return full, spleen, liver


def edit(dataset: Path, /, **changes) -> None:
    path = dataset / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def read(path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_images_stay_where_they_are_and_labels_get_the_numbers_of_the_full_set(sources, raw):
    before = [snapshot(source) for source in sources]
    union = convert_union("Union", 91, ["92:spleen", "93:liver"], OPTIONS)
    assert union == raw / "Dataset520_Union"
    assert [snapshot(source) for source in sources] == before
    content = json.loads((union / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "spleen": 1, "left_kidney": 2, "liver": 3}
    full, spleen, liver = (
        [f"{name}_00{i + 1}" for i in range(n)] for name, n in (("full", 5), ("spleen", 2), ("liver", 2))
    )
    organs = ["spleen", "left_kidney", "liver"]
    assert content["annotated_labels"] == (
        dict.fromkeys(full, organs) | {name: ["spleen"] for name in spleen} | {name: ["liver"] for name in liver}
    )
    files = get_filenames_of_train_images_and_targets(str(union))
    originals = {k: v for source in sources for k, v in get_filenames_of_train_images_and_targets(str(source)).items()}
    assert files.keys() == originals.keys() == content["annotated_labels"].keys()
    for name, entry in files.items():
        assert entry["images"] == originals[name]["images"]
        old, new = read(originals[name]["label"]), read(entry["label"])
        expected = {"f": old, "s": old, "l": np.where(old > 0, 3, 0)}[name[0]]
        np.testing.assert_array_equal(new, expected)
        assert new.any()
    written = {path.name for path in union.rglob("*.nii.gz") if not path.is_symlink()}
    assert written == {f"{name}.nii.gz" for name in liver}
    assert read(files["liver_001"]["label"]).max() == 3
    assert (read(originals["liver_001"]["label"]) == 2).any(), "there is a tumour, and it counts as liver"


def test_folds_validate_on_full_cases_only_and_train_on_all_others(sources):
    union = convert_union("Union", 91, ["92:spleen", "93:liver"], OPTIONS)
    partial = ["spleen_001", "spleen_002", "liver_001", "liver_002"]
    found = folds(union)
    assert len(found) == 5
    assert sorted(case for fold in found for case in fold["val"]) == [f"full_00{i}" for i in range(1, 6)]
    assert all(set(partial) <= set(fold["train"]) for fold in found)


def test_folds_of_the_full_dataset_are_kept(sources):
    names = [f"full_00{i}" for i in range(1, 6)]
    own = [{"train": names[2:], "val": names[:2]}, {"train": names[:3], "val": names[3:]}]
    (sources[0] / "splits_final.json").write_text(json.dumps(own))
    union = convert_union("Union", 91, ["92:spleen"], OPTIONS)
    partial = ["spleen_001", "spleen_002"]
    assert folds(union) == [{"train": fold["train"] + partial, "val": fold["val"]} for fold in own]
    assert "the folds of Dataset091_Full" in report(union)["split"]["rule"]


def test_nothing_is_taken_for_something_else_in_silence(sources):
    edit(sources[1], labels={"background": 0, "Spleen": 1})
    union = convert_union("Union", 91, ["92:spleen", "93:liver"], OPTIONS)
    notes = report(union)["notes"]
    assert "spleen is what Dataset092_Spleen calls Spleen" in notes
    assert "liver is what Dataset093_Liver calls liver and liver_tumour" in notes
    assert json.loads((union / "dataset.json").read_text())["union_of"]["Dataset092_Spleen"] == {"spleen": ["Spleen"]}


def test_labels_can_be_named_joined_and_left_out(sources):
    union = convert_union("Union", 91, ["93:spleen=liver_tumour,-liver"], OPTIONS)
    files = get_filenames_of_train_images_and_targets(str(union))
    original = read(get_filenames_of_train_images_and_targets(str(sources[2]))["liver_002"]["label"])
    np.testing.assert_array_equal(read(files["liver_002"]["label"]), original == 2)
    assert any("liver of Dataset093_Liver is left out" in note for note in report(union)["notes"])


@pytest.mark.parametrize(
    ("partial", "message"),
    [
        ("93:pancreas", "pancreas is no label .spleen, left_kidney, liver. of the fully labelled dataset"),
        ("92:liver", "liver is no label .background, spleen. of Dataset092_Spleen"),
        ("92:spleen,left kidney", "left kidney is no label .background, spleen."),
        ("93:spleen=liver", "does not say what liver_tumour of Dataset093_Liver is: write ORGAN=LABEL.liver_tumour"),
        ("93:liver=liver+liver", "uses liver of Dataset093_Liver twice"),
        ("93:liver=background", "uses background"),
        ("94:spleen", "holds no Dataset094_.*convert it first"),
        ("91:spleen", "named twice"),
        ("spleen", "is not of the form ID:ORGAN"),
        ("92:", "is not of the form"),
        ("92:-spleen", "names no organ"),
    ],
)
def test_requests_that_do_not_fit_are_one_sentence(sources, partial, message):
    with pytest.raises(UserError, match=message):
        convert_union("Union", 91, [partial], OPTIONS)


def test_requests():
    request = parse_request(" 7: pancreas = pancreas + cancer, left kidney, -vessel")
    assert (request.number, request.left_out) == (7, ("vessel",))
    assert request.organs == {"pancreas": ("pancreas", "cancer"), "left kidney": ()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": {"0": "MRI"}}, "has channels MRI and Dataset091_Full has CT"),
        ({"file_ending": ".nii"}, "has file ending .nii and Dataset091_Full has .nii.gz"),
        ({"file_ending": ".nrrd"}, "file ending .nrrd: a union is made of NIfTI"),
        ({"labels": {"background": 0, "spleen": [1, 2]}}, "has labels that are regions"),
        ({"labels": {"background": 0, "spleen": 2}}, "does not number its labels"),
        ({"labels": None}, "no usable labels"),
        ({"annotated_labels": {}}, "is a union itself"),
        ({"dataset": {"a": {"images": ["gone.nii.gz"], "label": "gone.nii.gz"}}}, "gone.nii.gz of .* is missing"),
    ],
)
def test_datasets_that_do_not_fit_are_one_sentence(sources, changes, message):
    edit(sources[1], **changes)
    with pytest.raises(UserError, match=message):
        convert_union("Union", 91, ["92:spleen"], OPTIONS)


def same_patient(sources, flip):
    """Case spleen_002 becomes full_003, stored as float32, and flipped where asked for."""
    image, label = (
        get_filenames_of_train_images_and_targets(str(sources[i]))[name]["images"][0]
        for i, name in ((0, "full_003"), (1, "spleen_002"))
    )
    voxels = read(image).astype(np.float32)
    new = sitk.GetImageFromArray(voxels[:, ::-1] if flip else voxels)
    new.CopyInformation(sitk.ReadImage(image))
    sitk.WriteImage(new, label, True)


@pytest.mark.parametrize("flip", [False, True])
def test_one_image_in_two_sources_is_refused_and_can_be_left_out(sources, flip):
    same_patient(sources, flip)
    with pytest.raises(UserError, match=r"full_003 and spleen_002 are the same image .* --exclude spleen_002"):
        convert_union("Union", 91, ["92:spleen"], OPTIONS)
    with pytest.raises(UserError, match="no case of that name"):
        convert_union("Union", 91, ["92:spleen"], OPTIONS, ["spleen_2"])
    union = convert_union("Union", 91, ["92:spleen"], OPTIONS, ["spleen_002"])
    assert "spleen_002" not in json.loads((union / "dataset.json").read_text())["annotated_labels"]
    assert report(union)["skipped"] == {"spleen_002": "left out with --exclude"}
    assert all("spleen_002" not in fold["train"] for fold in folds(union))


def test_what_an_interrupted_run_finished_is_not_done_again(sources, raw, monkeypatch):
    from dataset_conversion.union import UnionCase

    real = UnionCase.read
    seen = []

    def breaks(self, check):
        if self.name == "spleen_001":
            raise KeyboardInterrupt
        seen.append(self.name)
        return real(self, check)

    monkeypatch.setattr(UnionCase, "read", breaks)
    with pytest.raises(KeyboardInterrupt):
        convert_union("Union", 91, ["92:spleen"], OPTIONS)
    assert not (raw / "Dataset520_Union").exists()
    assert len(seen) == 5
    monkeypatch.setattr(UnionCase, "read", lambda self, check: (seen.append(self.name), real(self, check))[1])
    union = convert_union("Union", 91, ["92:spleen"], OPTIONS)
    assert seen[5:] == ["spleen_001", "spleen_002"]
    assert not list(raw.glob(".*"))
    assert len(json.loads((union / "dataset.json").read_text())["annotated_labels"]) == 7


def test_names_that_occur_twice_get_the_id_in_front(sources, raw, tmp_path):
    convert(tmp_path / "other", 95, "Full", ("liver",), 2, 9)
    union = convert_union("Union", 91, ["95:liver"], OPTIONS)
    annotated = json.loads((union / "dataset.json").read_text())["annotated_labels"]
    assert [name for name in annotated if annotated[name] == ["liver"]] == [
        "Dataset095_full_001",
        "Dataset095_full_002",
    ]
    assert any("Dataset095_ put before their names" in note for note in report(union)["notes"])


def test_a_union_never_replaces_what_it_is_made_of(sources):
    before = [snapshot(source) for source in sources]
    with pytest.raises(UserError, match="choose another -d"):
        convert_union("Spleen", 91, ["92:spleen"], Options(dataset_id=92, overwrite=True, mode="copy"))
    assert [snapshot(source) for source in sources] == before


def test_names_do_not_depend_on_what_is_left_out(sources, raw, tmp_path):
    convert(tmp_path, 95, "Full", ("spleen",), 2, 9)  # its cases are called as those of the first
    union = convert_union("Union", 91, ["95:spleen"], OPTIONS, exclude=["full_001"])
    names = json.loads((union / "dataset.json").read_text())["annotated_labels"]
    assert "full_001" not in names
    assert {"Dataset095_full_001", "Dataset095_full_002"} < names.keys()


def test_several_channels_and_the_ignore_label(raw, tmp_path):
    modalities = {"T1 in": MR_T1_IN_PHASE, "T1 out": MR_T1_OPPOSED_PHASE}
    convert(tmp_path, 91, "Full", ("spleen", "liver"), 3, 1, modalities=modalities)
    partial, _ = convert(tmp_path, 92, "Liver", ("liver", "spleen"), 2, 2, modalities=modalities)
    edit(partial, labels={"background": 0, "liver": 1, "ignore": 2})
    union = convert_union("Union", 91, ["92:liver"], OPTIONS)
    content = json.loads((union / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "spleen": 1, "liver": 2, "ignore": 3}
    files = get_filenames_of_train_images_and_targets(str(union))
    assert all(len(entry["images"]) == 2 for entry in files.values())
    old = read(get_filenames_of_train_images_and_targets(str(partial))["liver_001"]["label"])
    np.testing.assert_array_equal(read(files["liver_001"]["label"]), np.array([0, 2, 3])[old])
    assert set(np.unique(old)) == {0, 1, 2}


def test_a_copy_stands_alone(sources, raw):
    union = convert_union("Union", 91, ["92:spleen"], Options(dataset_id=520, mode="copy"))
    content = json.loads((union / "dataset.json").read_text())
    assert "dataset" not in content
    assert len(list((union / "imagesTr").iterdir())) == 7


def test_without_reading_images_the_report_says_they_were_not_compared(sources):
    same_patient(sources, False)
    union = convert_union("Union", 91, ["92:spleen"], Options(dataset_id=520, check="headers"))
    assert any("not compared with each other" in note for note in report(union)["notes"])


def test_too_few_full_cases_and_no_id(raw, tmp_path):
    convert(tmp_path, 91, "Full", ("spleen", "liver"), 1, 1)
    convert(tmp_path, 92, "Spleen", ("spleen",), 1, 2)
    with pytest.raises(UserError, match="at least two are needed"):
        convert_union("Union", 91, ["92:spleen"], OPTIONS)
    with pytest.raises(UserError, match="choose one with -d"):
        convert_union("Union", 91, ["92:spleen"], Options())
    with pytest.raises(UserError, match="at least one --partial"):
        convert_union("Union", 91, [], OPTIONS)


def test_the_command_line(sources, raw):
    arguments = ["union", "-d", "520", "-n", "Union", "--full", "91", "--partial", "92:spleen", "--partial", "93:liver"]
    assert CliRunner().invoke(app, [*arguments, "--dry-run", "-np", "1"]).exit_code == 0
    assert not (raw / "Dataset520_Union").exists()
    result = CliRunner().invoke(app, [*arguments, "-np", "1"])
    assert result.exit_code == 0, result.output
    assert (raw / "Dataset520_Union" / "dataset.json").is_file()
    assert "9:spleen" in CliRunner().invoke(app, ["union", "--help"]).output


def test_synonyms_name_one_organ_each():
    names = [other for name, others in SYNONYMS.items() for other in (name, *others)]
    assert len(set(names)) == len(names)
    assert all(canonical(name) == name for name in SYNONYMS)
    assert canonical("Kidney_Right") == canonical("right-kidney") == "right kidney"
    assert canonical("Oesophagus") == "esophagus"
    assert canonical("Hepatic_Vessel") == "hepatic vessel"
    assert is_lesion_of("tumor", "liver")
    assert is_lesion_of("liver_tumour", "Liver")
    assert is_lesion_of("cancer", "pancreas")
    assert not is_lesion_of("kidney tumor", "liver")
    assert not is_lesion_of("vessel", "liver")


def test_the_digest_tells_images_apart_but_not_copies():
    image = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
    same = [image, image.astype(np.float32), image.astype(np.int32), image[::-1], image.transpose(2, 0, 1)]
    assert len({image_digest([copy]) for copy in same}) == 1
    changed = image.copy()
    changed[0, 0, 0] += 1
    assert len({image_digest(group) for group in ([image], [changed], [image, image], [image[:4]], [image + 1])}) == 5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dataset", {"x": {}}, "does not name the images and the label of x"),
        ("dataset", {"x": None}, "does not name the images and the label of x"),
        ("dataset", {"x": {"images": "a.nii.gz", "label": "b.nii.gz"}}, "does not name the images and the label of x"),
        ("dataset", [], "does not name the images and the label"),
        ("labels", {"background": 0, "liver": True}, "has labels that are regions or no numbers"),
        ("labels", {"background": 0, "liver": 1.0}, "has labels that are regions or no numbers"),
    ],
)
def test_descriptions_that_say_something_else(raw, tmp_path, key, value, message):
    convert_msd(write_msd(tmp_path / "d", cases=2, test_cases=0, shape=SHAPE).folder, Options())
    path = raw / "Dataset090_PhantomAbdomen" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(UserError, match=rf"dataset\.json {message}"):
        read_raw_dataset(90)


@pytest.mark.parametrize("folds", [None, [], {}, [{}], [{"train": ["a"], "val": [1]}], [7], "x"])
def test_folds_that_are_none(tmp_path, folds):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps(folds))
    with pytest.raises(UserError, match=r"splits_final.json is no list of folds"):
        _read_folds(path)


def test_all_files_that_are_missing_are_named(raw, tmp_path):
    convert_msd(write_msd(tmp_path / "d", cases=2, test_cases=0, shape=SHAPE).folder, Options(mode="copy"))
    folder = raw / "Dataset090_PhantomAbdomen"
    for path in (folder / "imagesTr").iterdir():
        path.unlink()
        path.symlink_to(tmp_path / "gone.nii.gz")
    with pytest.raises(UserError, match="2 things are wrong") as error:
        read_raw_dataset(90)
    assert str(error.value).count("is missing: restore it") == 2


def test_a_label_of_another_ending_is_named(raw):
    folder = raw / "Dataset001_Odd"
    (folder / "labelsTr").mkdir(parents=True)
    for name in ("a.nii.gz", "b.NII.GZ", "c.nii", "notes.txt"):
        (folder / "labelsTr" / name).touch()
    description = {"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(UserError) as error:
        read_raw_dataset(1)
    lines = str(error.value).splitlines()
    assert lines[1:] == [
        f"  {folder / 'labelsTr' / name} does not end in .nii.gz, as dataset.json says: rename it."
        for name in ("b.NII.GZ", "c.nii")
    ]
