"""Readers of the file formats in which public datasets come: NIfTI, MetaImage, DICOM, and masks as PNG."""
