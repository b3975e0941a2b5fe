"""Whether the preprocessed unlabelled images of a dataset can be trained on as they are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from zipfile import BadZipFile

from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.core.errors import UserError
from nnunet_ext.data.unlabelled.store import RAW_FOLDER, StoreRecord, case_files, dataset_number, plans_fingerprint


def preprocessing_command(plans: PlansManager, configuration: str) -> str:
    """What to type for the unlabelled images of a configuration."""
    number = dataset_number(plans.dataset_name)
    return f"nnunet-ext preprocess-unlabelled -d {number} -c {configuration} -p {plans.plans_name}"


def ready_cases(
    folder: Path,
    plans: PlansManager,
    configuration: str,
    labelled: str,
    raw_images: Collection[str] = (),
    previous_stage: str | None = None,
) -> list[str]:
    """Names of the preprocessed unlabelled cases of a configuration.

    Args:
        folder: of :func:`store_folder`.
        plans: of the run.
        configuration: name of the one that is trained.
        labelled: folder of its preprocessed labelled cases.
        raw_images: cases that ``imagesUn`` holds now; empty: not compared.
        previous_stage: folder of the predictions of a cascade's first stage, if the configuration has one.

    Raises:
        UserError: there are none, some are not finished, lost, taken out or labelled by now, they belong to other
            plans, or the previous stage of a cascade did not see them.
    """
    name, command = plans.dataset_name, preprocessing_command(plans, configuration)
    record = StoreRecord.read(folder)
    finished = [case for case in sorted(record.cases) if case_files(folder, case)]
    if not record.cases and not record.wanted:
        first = "" if raw_images else f"put some into {RAW_FOLDER} of {name} in nnUNet_raw and "
        raise UserError(
            f"There are no preprocessed unlabelled images in {folder}: {first}run {command}, or use "
            "nnUNetTrainerSDNetLabelled."
        )
    if record.plans != plans_fingerprint(plans.plans, plans.get_configuration(configuration).configuration):
        raise UserError(f"{folder} was made with other plans than those of this run: run {command}.")
    if len(finished) < len(record.cases):
        raise UserError(f"{folder} has lost files of {min(set(record.cases) - set(finished))}: run {command}.")
    unfinished = sorted(set(record.wanted) - set(finished))
    if unfinished:
        raise UserError(
            f"{folder} lacks {unfinished[0]} ({len(unfinished)} of {len(record.wanted)} images are not preprocessed "
            f"yet): run {command}."
        )
    # Trained on as if it had no label, such a case would also be known to the fold that validates on it.
    both = sorted(set(finished).intersection(infer_dataset_class(labelled).get_identifiers(labelled)))
    if both:
        raise UserError(
            f"{both[0]} is a labelled case of {name} by now, and still among the unlabelled ones of {folder} "
            f"({len(both)} such case(s)): take it out of {RAW_FOLDER} and run {command}, or, with no other left, use "
            "nnUNetTrainerSDNetLabelled."
        )
    gone = sorted(set(finished) - set(raw_images)) if raw_images else []
    if gone:
        raise UserError(
            f"{gone[0]} is no longer in {RAW_FOLDER} of {name}, and still among the unlabelled ones of {folder} "
            f"({len(gone)} such case(s)): run {command}, or put it back."
        )
    if previous_stage is not None:
        _check_previous_stage(folder, finished, plans, configuration, previous_stage)
    return finished


def _check_previous_stage(
    folder: Path, cases: Sequence[str], plans: PlansManager, configuration: str, previous_stage: str
) -> None:
    """Whether a cascade's first stage has predicted the cases as they are preprocessed now."""
    dataset = infer_dataset_class(str(folder))(str(folder), list(cases), previous_stage)
    lacking = []
    for case in cases:
        try:
            image, _, predicted, _ = dataset.load_case(case)  # headers alone, in nnU-Net's usual format
        except (OSError, RuntimeError, ValueError, BadZipFile):  # missing, or half of it
            lacking.append(case)
        else:
            if predicted.shape != image.shape[1:]:
                lacking.append(case)
    if lacking:
        first = plans.get_configuration(configuration).previous_stage_name
        raise UserError(
            f"{previous_stage} has no prediction of the unlabelled {lacking[0]}, or none of its shape "
            f"({len(lacking)} of {len(cases)} images): train {first} with a trainer of the same name, or, where that "
            "is done, run it again with --val, which makes them; for images that came later "
            f"{preprocessing_command(plans, first)} before."
        )
