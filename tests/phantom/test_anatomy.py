import numpy as np
import pytest
from scipy import ndimage

from nnunet_ext.phantom.anatomy import BTCV_LABELS, LESIONS, TISSUES, make_phantom
from nnunet_ext.phantom.contrast import CT, MR_T1_IN_PHASE, MR_T1_OPPOSED_PHASE, MR_T2_SPIR, scan

ORGANS = [name for name in BTCV_LABELS if name != "background"]


@pytest.fixture(scope="module")
def patients():
    return [make_phantom(seed, lesions=True) for seed in range(6)]


def test_same_seed_same_patient_other_seed_other_patient():
    first, again, other = make_phantom(3), make_phantom(3), make_phantom(4)
    np.testing.assert_array_equal(first.tissue, again.tissue)
    np.testing.assert_array_equal(scan(first), scan(again))
    assert (first.tissue != other.tissue).mean() > 0.05
    assert first.spacing != other.spacing


def test_every_organ_holds_several_voxels(patients):
    for patient in patients:
        counts = {organ: int((patient.organs == BTCV_LABELS[organ]).sum()) for organ in ORGANS}
        assert min(counts.values()) >= 15, counts
        assert max(counts, key=counts.get) == "liver"


def test_organs_lie_where_they_should(patients):
    for patient in patients:
        z, y, x = (
            dict(zip(ORGANS, axis, strict=True))
            for axis in zip(
                *ndimage.center_of_mass(patient.organs > 0, patient.organs, [BTCV_LABELS[o] for o in ORGANS]),
                strict=True,
            )
        )
        assert x["liver"] < x["stomach"] < x["spleen"], "the patient's right is at small x"
        assert x["right_kidney"] < x["inferior_vena_cava"] < x["aorta"] < x["left_kidney"]
        assert y["liver"] < y["right_kidney"], "the back is at large y"
        assert z["right_kidney"] < z["liver"], "the head is at large z"
        assert z["left_kidney"] < z["left_adrenal_gland"]


def test_one_patient_on_two_grids():
    coarse, fine = make_phantom(5, (24, 64, 64)), make_phantom(5, (48, 128, 128))
    for organ in ("liver", "spleen", "left_kidney"):
        value = BTCV_LABELS[organ]
        volumes = [(p.organs == value).sum() * np.prod(p.spacing) for p in (coarse, fine)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.05)


def test_hounsfield_units_are_those_of_the_tissue(patients):
    for patient in patients:
        image = scan(patient, CT)
        for organ in ORGANS:
            median = np.median(image[patient.tissue == TISSUES[organ]])
            assert abs(median - CT.values[organ]) < 45, organ
        corner = image[:, :4, :4]
        assert corner.min() >= -1024
        assert np.median(corner) == pytest.approx(-1000, abs=15)


def test_phases_of_one_patient_share_anatomy_not_noise():
    patient = make_phantom(1)
    in_phase, opposed = scan(patient, MR_T1_IN_PHASE), scan(patient, MR_T1_OPPOSED_PHASE)
    fat = patient.tissue == TISSUES["fat"]
    assert np.median(in_phase[fat]) > np.median(opposed[fat]) + 100
    muscle = ndimage.binary_erosion(patient.tissue == TISSUES["muscle"])
    assert abs(np.corrcoef(in_phase[muscle], opposed[muscle])[0, 1]) < 0.3
    assert scan(patient, MR_T2_SPIR).min() >= 0


def test_lesions_lie_inside_their_organ(patients):
    for patient in patients:
        organs = patient.labels(["liver"]) > 0
        split = patient.labels(["liver", "liver_tumour"])
        np.testing.assert_array_equal(split > 0, organs)
        assert (split == 1).any() and (split == 2).any()
        assert set(np.unique(patient.labels(["pancreas", LESIONS["pancreas"]]))) == {0, 1, 2}


def test_absent_organ_changes_nothing_else():
    whole, without = make_phantom(2), make_phantom(2, absent=["gallbladder"])
    changed = whole.organs != without.organs
    assert not (without.organs == BTCV_LABELS["gallbladder"]).any()
    assert set(np.unique(whole.organs[changed])) == {BTCV_LABELS["gallbladder"]}


def test_labels_are_numbered_as_named():
    patient = make_phantom(0)
    labels = patient.labels(["spleen", "liver"])
    np.testing.assert_array_equal(labels == 1, patient.organs == BTCV_LABELS["spleen"])
    np.testing.assert_array_equal(labels == 2, patient.organs == BTCV_LABELS["liver"])
    with pytest.raises(KeyError):
        patient.labels(["heart"])
