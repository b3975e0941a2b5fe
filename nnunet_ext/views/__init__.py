"""Three views of a 3D image: plans whose slices lie the other ways, and the vote of their models."""
