"""Values that an image must not hold: one NaN makes an image all NaN when it is normalised, and then the loss."""

from __future__ import annotations

from pathlib import Path

from nnunet_ext.core.nifti_values import count_not_finite, is_nifti, nifti_not_finite


def not_finite(file: Path, reader: type) -> int:
    """How many values of an image file, as it stores them, are NaN or infinite.

    What a reader hands on is not asked: ITK reads NaN in NIfTI files as 0, in others as NaN. Files of whole numbers,
    which can hold neither, are not read beyond their header where the format allows.

    Args:
        file: one file of an image.
        reader: nnU-Net's reader of the dataset.
    """
    if is_nifti(file):
        return nifti_not_finite(file)
    if reader.__name__.startswith("SimpleITKIO"):
        import SimpleITK as sitk

        header = sitk.ImageFileReader()
        header.SetFileName(str(file))
        header.ReadImageInformation()
        if "float" not in sitk.GetPixelIDValueAsString(header.GetPixelID()):
            return 0
        image = header.Execute()  # has a name, as the view of its memory does not keep it alive
        return count_not_finite(sitk.GetArrayViewFromImage(image))
    return count_not_finite(reader().read_images([str(file)])[0])
