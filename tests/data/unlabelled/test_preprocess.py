"""``nnunet-ext preprocess-unlabelled``: what it makes, that it goes on where it stopped, and what it refuses."""

import gzip
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

from nnunet_ext.cli.unlabelled import run_preprocess
from nnunet_ext.core.errors import UserError
from nnunet_ext.data.unlabelled.store import StoreRecord, store_folder
from tests.conftest import PLANS, add_unlabelled


@pytest.fixture
def images(writable_dataset):
    return add_unlabelled(writable_dataset, ("one", "two"))


def run(dataset, *configurations, processes=1):
    run_preprocess(dataset.id, configurations or ("3d_fullres",), PLANS, processes)


def store(dataset, configuration="3d_fullres"):
    return store_folder(dataset.preprocessed, f"nnUNetPlans_{configuration}")


def times(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def stored_anew(source, target):
    """The same voxels in other bytes, which no comparison of files finds."""
    target.write_bytes(gzip.compress(gzip.decompress(Path(source).read_bytes()), 3, mtime=1))


def test_images_become_what_labelled_ones_become(writable_dataset, images, capsys):
    """A training image without its label must come out as with it."""
    content = json.loads((writable_dataset.raw / "dataset.json").read_text())
    name = min(content["dataset"])
    stored_anew(content["dataset"][name]["images"][0], images / "same_0000.nii.gz")
    (images / ".DS_Store").touch()
    run(writable_dataset, "2d", "3d_fullres")
    for configuration in ("2d", "3d_fullres"):
        labelled, folder = (
            writable_dataset.preprocessed / f"nnUNetPlans_{configuration}",
            store(writable_dataset, configuration),
        )
        dataset_class = infer_dataset_class(str(folder))
        assert dataset_class is infer_dataset_class(str(labelled))
        assert sorted(dataset_class.get_identifiers(str(folder))) == ["one", "same", "two"]
        data, segmentation, _, properties = dataset_class(str(folder), ["same"]).load_case("same")
        expected, _, _, reference = dataset_class(str(labelled), [name]).load_case(name)
        assert np.array_equal(data[:], expected[:])
        assert segmentation[:].max() <= 0
        assert properties["class_locations"] == {}
        assert properties["spacing"] == reference["spacing"]
        assert data.chunks == expected.chunks
    output = capsys.readouterr().out
    assert "2d: 3 preprocessed" in output
    assert "3d_fullres: 3 preprocessed" in output


def test_finished_cases_are_kept_and_changed_ones_made_anew(writable_dataset, images, capsys):
    run(writable_dataset)
    folder = store(writable_dataset)
    before = times(folder)
    capsys.readouterr()
    run(writable_dataset)
    assert times(folder) == before
    assert "0 preprocessed, 2 were finished" in capsys.readouterr().out

    # one image changes, one comes, one goes; and a run was killed: files without a record, and a folder half filled
    add_unlabelled(writable_dataset, ("one",))
    shutil.move(images / "two_0000.nii.gz", images / "three_0000.nii.gz")
    (folder / "four.b2nd").touch()
    (folder / "tmpabc").mkdir()
    (folder / "tmpabc" / "five.pkl").touch()
    run(writable_dataset)
    assert "2 preprocessed, 2 removed" in capsys.readouterr().out
    after = times(folder)
    assert {name.split(".")[0].removesuffix("_seg") for name in after} == {"one", "three"}
    assert after["one.b2nd"] != before["one.b2nd"]

    # a file is gone
    (folder / "one.pkl").unlink()
    run(writable_dataset)
    assert "1 preprocessed, 1 were finished" in capsys.readouterr().out
    assert times(folder)["three.b2nd"] == after["three.b2nd"]

    # other plans, under the same name
    file = writable_dataset.preprocessed / f"{PLANS}.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"]["batch_size"] = 7
    file.write_text(json.dumps(plans))
    run(writable_dataset)
    assert "0 preprocessed, 2 were finished" in capsys.readouterr().out
    plans["configurations"]["3d_fullres"]["spacing"] = [16.0, 16.0, 16.0]
    file.write_text(json.dumps(plans))
    run(writable_dataset)
    assert "2 preprocessed" in capsys.readouterr().out
    _, _, _, properties = infer_dataset_class(str(folder))(str(folder), ["one"]).load_case("one")
    data = infer_dataset_class(str(folder))(str(folder), ["one"]).load_case("one")[0]
    assert data.shape[1] <= properties["shape_before_cropping"][0] // 2 + 1


def test_configurations_without_labelled_images_are_named(writable_dataset, images, capsys):
    run(writable_dataset)
    assert "Labelled images are not" not in capsys.readouterr().out
    shutil.rmtree(writable_dataset.preprocessed / "nnUNetPlans_2d")
    command = f"run nnUNetv2_preprocess -d {writable_dataset.id} -plans_name {PLANS} -c 2d"
    for configurations, end in (((), f"{command} and this again."), (("2d",), f"{command}.")):
        run_preprocess(writable_dataset.id, configurations, PLANS, 1)
        assert capsys.readouterr().out.rstrip().endswith(end)


def test_a_killed_run_goes_on(writable_dataset, images, monkeypatch):
    from nnunet_ext.data.unlabelled import preprocess

    real, done = preprocess._preprocess_case, []

    def killed(job, named):
        if done:
            raise KeyboardInterrupt
        done.append(named[0])
        return real(job, named)

    monkeypatch.setattr(preprocess, "_preprocess_case", killed)
    with pytest.raises(KeyboardInterrupt):
        run(writable_dataset)
    folder = store(writable_dataset)
    assert list(StoreRecord.read(folder).cases) == done
    assert StoreRecord.read(folder).wanted == ["one", "two"]
    before = times(folder)
    monkeypatch.setattr(preprocess, "_preprocess_case", real)
    run(writable_dataset)
    assert sorted(StoreRecord.read(folder).cases) == ["one", "two"]
    assert {name: time for name, time in times(folder).items() if name in before} == before


def test_two_at_a_time_are_refused(writable_dataset, images, monkeypatch):
    from nnunet_ext.data.unlabelled import preprocess

    def second_meanwhile(job, named):
        with pytest.raises(UserError, match=r"Another preprocess-unlabelled is at work in .*_unlabelled: wait until"):
            run(writable_dataset)
        return "seen"

    monkeypatch.setattr(preprocess, "_preprocess_case", second_meanwhile)
    for _ in range(2):  # the lock is released although the first run ends with an error
        with pytest.raises(UserError, match="2 of 2 unlabelled cases cannot be preprocessed: seen; seen"):
            run(writable_dataset)


@pytest.mark.parametrize("damage", ["compressed file cut", "cut file compressed"])
def test_a_damaged_image_is_named_and_the_others_are_kept(writable_dataset, images, damage):
    file = images / "two_0000.nii.gz"
    if damage == "compressed file cut":
        file.write_bytes(file.read_bytes()[:-3000])  # the header is whole
    else:
        file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-3000]))
    with pytest.raises(
        UserError, match=r"1 of 2 unlabelled cases cannot be preprocessed: .*two_0000.nii.gz \(.*the others are kept"
    ):
        run(writable_dataset, processes=2)
    folder = store(writable_dataset)
    assert list(StoreRecord.read(folder).cases) == ["one"]
    assert {path.name for path in folder.iterdir()} == {"one.b2nd", "one_seg.b2nd", "one.pkl"}
    add_unlabelled(writable_dataset, ("one", "two"))
    run(writable_dataset)
    assert sorted(StoreRecord.read(folder).cases) == ["one", "two"]


def test_images_with_nan_are_named_and_not_preprocessed(writable_dataset, images):
    for name in ("one", "two"):
        file = images / f"{name}_0000.nii.gz"
        image = nib.load(file)
        array = image.get_fdata(dtype=np.float32)
        array[3, 4, 5] = np.nan
        nib.save(nib.Nifti1Image(array, image.affine), file)
    with pytest.raises(UserError, match=r"2 of 2 .*one_0000.nii.gz \(1 of its values are NaN .*two_0000"):
        run(writable_dataset)
    assert not list(store(writable_dataset).iterdir())


def test_all_that_does_not_fit_is_named_at_once(writable_dataset, images):
    for name in ("one", "two"):
        (images / f"{name}_0000.nii.gz").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"one_0000.* cannot be read .*two_0000.* cannot be read"):
        run(writable_dataset)


def rewritten(change):
    """Change an image."""

    def apply(dataset, images):
        file = str(images / "one_0000.nii.gz")
        image = sitk.ReadImage(file)
        sitk.WriteImage(change(image) or image, file)

    return apply


def training_name(dataset, images):
    content = json.loads((dataset.raw / "dataset.json").read_text())
    (images / "one_0000.nii.gz").rename(images / f"{min(content['dataset'])}_0000.nii.gz")


def training_copy(dataset, images):
    content = json.loads((dataset.raw / "dataset.json").read_text())["dataset"]
    shutil.copy(content[min(content)]["images"][0], images / "one_0000.nii.gz")


def dangling_link(dataset, images):
    (images / "one_0000.nii.gz").unlink()
    (images / "one_0000.nii.gz").symlink_to(images / "moved.nii.gz")


def only_hidden_files(dataset, images):
    for file in images.iterdir():
        file.unlink()
    (images / ".DS_Store").touch()


def four_dimensions(dataset, images):
    sitk.WriteImage(
        sitk.JoinSeries([sitk.ReadImage(str(images / "one_0000.nii.gz"))] * 2), str(images / "one_0000.nii.gz")
    )


REFUSED = {
    "nothing": (
        lambda dataset, images: shutil.rmtree(images),
        r"no unlabelled images: put them into .*imagesUn as CASE",
    ),
    "empty": (lambda dataset, images: [f.unlink() for f in images.iterdir()], "There are no unlabelled images"),
    "only hidden files": (only_hidden_files, "There are no unlabelled images"),
    "another ending": (
        lambda dataset, images: (images / "three_0000.mha").touch(),
        r"three_0000.mha is not named CASE_0000.nii.gz",
    ),
    "no channel number": (
        lambda dataset, images: (images / "one_0000.nii.gz").rename(images / "one.nii.gz"),
        r"one.nii.gz is not named CASE_0000.nii.gz",
    ),
    "another channel": (
        lambda dataset, images: (images / "one_0000.nii.gz").rename(images / "one_0001.nii.gz"),
        r"one in .* has no channel 0000, where the training images have 1",
    ),
    "more channels": (
        lambda dataset, images: shutil.copy(images / "one_0000.nii.gz", images / "one_0001.nii.gz"),
        r"one in .* has 2 channels, where the training images have 1",
    ),
    "a training case": (training_name, r"phantomabdomen_001 in .* is the name of a training case"),
    "a copy of a training case": (
        training_copy,
        r"one_0000.nii.gz is the training image .*phantomabdomen_001.* under another name: take it out",
    ),
    "two of another ending": (
        lambda dataset, images: [(images / f"{name}_0000.mha").touch() for name in ("three", "four")],
        r"2 things are wrong:\n  .*four_0000.mha is not named CASE_0000.nii.gz.*\n  .*is not named CASE_0000.nii.gz",
    ),
    "a link to nothing": (dangling_link, r"one_0000.nii.gz cannot be read \(No such file or directory\): replace it"),
    "not an image": (
        lambda dataset, images: (images / "one_0000.nii.gz").write_bytes(b"nothing"),
        r"one_0000.nii.gz cannot be read \(",
    ),
    "turned": (
        rewritten(lambda image: sitk.PermuteAxes(image, [2, 0, 1])),
        r"one_0000.nii.gz is oriented .*, where the training images are .*reorient it",
    ),
    "flipped": (
        rewritten(lambda image: sitk.Flip(image, [False, False, True])),
        r"one_0000.nii.gz is oriented .*, where the training images are",
    ),
    "metres": (
        rewritten(lambda image: image.SetSpacing([s / 1000 for s in image.GetSpacing()])),
        r"has voxels of 0.008 x 0.008 x 0.008 mm, where the training images have 8 x 8 x 8",
    ),
    "two dimensions": (rewritten(lambda image: image[:, :, 3]), "has 2 dimensions, where the training images have 3"),
    "four dimensions": (
        four_dimensions,
        r"files of one in .* have 2 channel\(s\) together, where dataset.json names 1:",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_fit_is_refused_before_any_work(writable_dataset, images, what):
    change, message = REFUSED[what]
    change(writable_dataset, images)
    with pytest.raises(UserError, match=message) as error:
        run(writable_dataset)
    assert str(error.value).endswith(".")
    assert not store(writable_dataset).exists()


def test_finished_cases_outlive_an_empty_folder(writable_dataset, images):
    run(writable_dataset)
    before = times(store(writable_dataset))
    only_hidden_files(writable_dataset, images)
    with pytest.raises(UserError, match="There are no unlabelled images"):
        run(writable_dataset)
    assert times(store(writable_dataset)) == before


def test_wrong_names_are_refused(writable_dataset, images):
    def refused(message, dataset="90", configurations=(), plans=PLANS):
        with pytest.raises(UserError, match=message):
            run_preprocess(dataset, configurations, plans, 1)

    refused(r"has no dataset 91 \(there: Dataset090_PhantomAbdomen\): convert", dataset="91")
    refused(r"has no dataset Dataset090_Other", dataset="Dataset090_Other")
    refused(r"has no configuration 3d: it has 2d, 3d_fullres", configurations=("3d",))
    advice = rf"run nnUNetv2_plan_and_preprocess -d 90 first \(.*ResEncM\), or name others with -p \(there: .*{PLANS}"
    refused(rf"There is no .*otherPlans.json: {advice}", plans="otherPlans")
    (writable_dataset.preprocessed / "brokenPlans.json").write_text("{")
    refused(rf"brokenPlans.json is no JSON file .* \(there: (?!broken).*{PLANS}\)", plans="brokenPlans")
    (writable_dataset.root / "nnUNet_raw" / "Dataset090_Other").mkdir()
    refused(r"several datasets 90 \(Dataset090_Other, Dataset090_PhantomAbdomen\)")
    for configuration in ("2d", "3d_fullres"):
        shutil.rmtree(writable_dataset.preprocessed / f"nnUNetPlans_{configuration}")
    refused(r"has no preprocessed cases: run nnUNetv2_preprocess first", dataset=writable_dataset.name)


def test_command(writable_dataset, images):
    """The command line, all configurations that are preprocessed, in processes of its own."""
    output = writable_dataset.run(
        "nnunet-ext", "preprocess-unlabelled", "-d", writable_dataset.id, "-p", PLANS, "-np", 2
    )
    assert "2d: 2 preprocessed" in output.stdout
    assert "3d_fullres: 2 preprocessed" in output.stdout
    (images / "two_0000.nii.gz").unlink()
    (images / "two.nii.gz").touch()
    result = writable_dataset.run("nnunet-ext", "preprocess-unlabelled", "-d", "90", "-p", PLANS, check=False)
    assert result.returncode == 1
    assert result.stderr.strip().startswith("error: ")
    assert len(result.stderr.strip().splitlines()) == 1
