"""Whether a NIfTI file is whole."""

import gzip
import zlib

import nibabel
import numpy as np
import pytest

from nnunet_ext.core.nifti_length import check_complete, promised_length, stored_length


@pytest.fixture(params=[".nii", ".nii.gz"])
def file(tmp_path, request):
    path = tmp_path / f"image{request.param}"
    nibabel.save(
        nibabel.Nifti1Image(np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32), np.eye(4)), path
    )
    return path


def test_a_whole_file_has_the_bytes_that_its_header_promises(file):
    check_complete(file)
    content = file.read_bytes()
    length = len(gzip.decompress(content) if file.suffix == ".gz" else content)
    assert stored_length(file) == promised_length(nibabel.load(file)) == length == 352 + 5 * 6 * 7 * 4


def test_a_file_that_lacks_one_byte_is_not_whole(file):
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    with pytest.raises((ValueError, EOFError, OSError, zlib.error)):
        check_complete(file)
    if file.suffix == ".gz":  # whole for gzip, short for the header
        file.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
        with pytest.raises(ValueError, match="truncated, with 1191 bytes of 1192"):
            check_complete(file)


def test_of_other_formats_nothing_is_asked(tmp_path):
    (tmp_path / "image.nrrd").write_bytes(b"")
    check_complete(tmp_path / "image.nrrd")
