"""The public trainers: where each is and what a user should know before choosing it. Imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainerEntry:
    """A trainer that stock nnU-Net finds by name.

    Attributes:
        name: class name, given to ``nnUNetv2_train -tr``.
        module: where the class is.
        summary: what it does, in a line.
        paper: the source.
        needs: what it needs beyond a stock run.
        cost: measured time of a training iteration relative to stock nnU-Net.
        gain: what was measured against stock nnU-Net on the same data and iterations.
    """

    name: str
    module: str
    summary: str
    paper: str
    needs: str
    cost: str
    gain: str = "not yet measured"

    @property
    def time(self) -> str:
        """The factor of :attr:`cost` alone; "-" where there is none."""
        factor = re.search(r"([\d.]+) x", self.cost)
        return factor[1] if factor else "-"

    def details(self) -> dict[str, str]:
        """What to show of it, by heading."""
        return {"adds": self.summary, "from": self.paper, "needs": self.needs, "time": self.cost, "gain": self.gain}


TRAINERS: dict[str, TrainerEntry] = {
    entry.name: entry
    for entry in (
        TrainerEntry(
            "nnUNetTrainerAuxiliaryGAN",
            "nnunet_ext.trainers.refined_gan",
            "one discriminator on the final output",
            "Lian et al. 2025, Eq. 2",
            "nothing",
            "1.06 x stock nnU-Net per iteration (CPU)",
            "none",
        ),
        TrainerEntry(
            "nnUNetTrainerRefinedGAN",
            "nnunet_ext.trainers.refined_gan",
            "two discriminators, on the final output and on the one before it",
            "Lian et al. 2025, Eq. 4",
            "a plan with two or more deep-supervision outputs",
            "1.01 x stock nnU-Net per iteration (CPU)",
            "none",
        ),
        TrainerEntry(
            "nnUNetTrainerMLL",
            "nnunet_ext.trainers.multi_level",
            "boundary loss (signed distance) and cross-entropy at uncertain points",
            "Liu et al. 2022, Eq. 11",
            "nothing",
            "0.96 x stock nnU-Net per iteration (CPU)",
            "abdominal MR, 600 iterations: +0.132, +0.176 Dice, later none; Hippocampus, early: +0.265",
        ),
        TrainerEntry(
            "nnUNetTrainerRegionBoundary",
            "nnunet_ext.trainers.multi_level",
            "boundary loss alone",
            "Liu et al. 2022, ablation",
            "nothing",
            "1.03 x stock nnU-Net per iteration (CPU)",
            "HD95 2.18 to 2.03 mm, within the spread",
        ),
        TrainerEntry(
            "nnUNetTrainerRegionPixel",
            "nnunet_ext.trainers.multi_level",
            "cross-entropy at uncertain points alone",
            "Liu et al. 2022, ablation",
            "nothing",
            "0.95 x stock nnU-Net per iteration (CPU)",
            "none",
        ),
        TrainerEntry(
            "nnUNetTrainerCoarseToFine",
            "nnunet_ext.trainers.coarse_to_fine",
            "a coarse and a fine ResNet-18 with ASPP on slices, with the multi-level loss; inference iterates",
            "Liu et al. 2022, Eq. 9 and 11",
            "a batch of 2 slices or more; ImageNet weights of ResNet-18 where there are any",
            "1.69 x stock nnU-Net per iteration (CPU)",
            "abdominal MR: Dice +0.170 (stock at equal time more), Hippocampus +0.012",
        ),
        TrainerEntry(
            "nnUNetTrainerMLN",
            "nnunet_ext.trainers.coarse_to_fine",
            "the structural network: region, boundary and pixel branch, fused; from coarse to fine, inference iterates",
            "Liu et al. 2022, Eq. 13",
            "a batch of 2 slices or more; ImageNet weights of ResNet-18 where there are any",
            "3.45 x stock nnU-Net per iteration (CPU)",
            "abdominal MR: Dice +0.164 (stock at equal time more)",
        ),
        TrainerEntry(
            "nnUNetTrainerMLNNoPixel",
            "nnunet_ext.trainers.coarse_to_fine",
            "the structural network with shared layers in place of self-attention among pixels",
            "Liu et al. 2022, Table 9",
            "as nnUNetTrainerMLN",
            "3.01 x stock nnU-Net per iteration (CPU)",
            "abdominal MR, 600 iterations: Dice +0.118, distances in mm",
        ),
        TrainerEntry(
            "nnUNetTrainerMLNNoGuidance",
            "nnunet_ext.trainers.coarse_to_fine",
            "the structural network with convolutions in place of the saliency guidance",
            "Liu et al. 2022, Table 9",
            "as nnUNetTrainerMLN",
            "5.35 x stock nnU-Net per iteration (CPU)",
            "abdominal MR, 600 iterations: Dice +0.082, distances in mm",
        ),
        TrainerEntry(
            "nnUNetTrainerMLNNoCoarse",
            "nnunet_ext.trainers.coarse_to_fine",
            "the structural network on whole slices, without a coarse network",
            "Liu et al. 2022, ablation",
            "as nnUNetTrainerMLN",
            "2.73 x stock nnU-Net per iteration (CPU)",
            "none in one fold of abdominal MR, distances in mm",
        ),
        TrainerEntry(
            "nnUNetTrainerPaNN",
            "nnunet_ext.trainers.pann",
            "partially labelled cases, completed by pseudo-labels, and a prior on the proportions of the organs",
            "Zhou et al. 2019, Eq. 3",
            "dataset.json with annotated_labels, some cases fully labelled, a batch of 2 or more",
            "as stock nnU-Net in stage 1, 1.11 x in stage 2 (CPU)",
            "Dice +0.017 with 4 full cases, none with 20; abdominal MR: some with 4, none with 2",
        ),
        TrainerEntry(
            "nnUNetTrainerPartial",
            "nnunet_ext.trainers.pann",
            "partially labelled cases, completed by pseudo-labels, without the prior",
            "Zhou et al. 2019, lambda2 = 0",
            "dataset.json with annotated_labels, some cases fully labelled, a batch of 2 or more",
            "as stock nnU-Net in stage 1, 1.09 x in stage 2 (CPU)",
            "the same as PaNN, on abdominal MR less",
        ),
        TrainerEntry(
            "nnUNetTrainerCascaded",
            "nnunet_ext.trainers.cascaded",
            "the network of the plans twice: the second sees the output of the first (auto-context), end to end",
            "Conze et al. 2021, section 3.3",
            "memory for two networks",
            "2.03 x stock nnU-Net per iteration (CPU), two networks in inference",
            "abdominal MR, 600 iterations: Dice +0.064, not significant",
        ),
        TrainerEntry(
            "nnUNetTrainerCascadedGAN",
            "nnunet_ext.trainers.cascaded",
            "the cascade, and a discriminator that sees image and segmentation",
            "Conze et al. 2021, Eq. 1 and 2",
            "memory for two networks",
            "2.10 x stock nnU-Net per iteration (CPU), two networks in inference",
            "none in one fold of abdominal MR",
        ),
        TrainerEntry(
            "nnUNetTrainerCascadedVGG19",
            "nnunet_ext.trainers.cascaded",
            "the cascade of two U-Nets with VGG-19, pretrained on ImageNet, as encoder",
            "Conze et al. 2021, section 3.2",
            "configuration 2d, ImageNet weights of VGG-19, memory for two large networks",
            "not measured yet",
        ),
        TrainerEntry(
            "nnUNetTrainerCascadedVGG19GAN",
            "nnunet_ext.trainers.cascaded",
            "the cascade of two U-Nets with pretrained VGG-19, and a discriminator that sees image and segmentation",
            "Conze et al. 2021, cGv19pUNet1-1",
            "configuration 2d, ImageNet weights of VGG-19, memory for two large networks",
            "not measured yet",
        ),
        TrainerEntry(
            "nnUNetTrainerSDNet",
            "nnunet_ext.trainers.sdnet",
            "a second, residual network; both teach each other on unlabelled images",
            "Huang et al. 2024, Eq. 7 and 8",
            "images in imagesUn and nnunet-ext preprocess-unlabelled, a batch of 2 or more, memory for two networks",
            "2.09 x stock nnU-Net per iteration (CPU), two networks in inference",
            "Dice +0.004, within the spread; abdominal MR: +0.049 with 3 labelled, none with 8",
        ),
        TrainerEntry(
            "nnUNetTrainerSDNetLabelled",
            "nnunet_ext.trainers.sdnet",
            "a second, residual network; both learn again where they differ, without unlabelled images",
            "Huang et al. 2024, Eq. 7",
            "memory for two networks",
            "2.10 x stock nnU-Net per iteration (CPU), two networks in inference",
            "no more than two networks averaged; stock trained twice as long gains more",
        ),
        TrainerEntry(
            "nnUNetTrainerRefinedGANMLL",
            "nnunet_ext.trainers.combined",
            "RefinedGAN with the boundary and pixel terms of MLL",
            "Lian et al. 2025 with Liu et al. 2022",
            "a plan with two or more deep-supervision outputs",
            "not measured yet",
            "abdominal MR, 600 iterations: Dice +0.153",
        ),
        TrainerEntry(
            "nnUNetTrainerSDNetMLL",
            "nnunet_ext.trainers.combined",
            "SDNet with the boundary and pixel terms of MLL in both networks",
            "Huang et al. 2024 with Liu et al. 2022",
            "as nnUNetTrainerSDNet",
            "not measured yet",
            "abdominal MR: Dice +0.200 or more by draw; stock at equal time more",
        ),
        TrainerEntry(
            "nnUNetTrainerSDNetLabelledMLL",
            "nnunet_ext.trainers.combined",
            "SDNetLabelled with the boundary and pixel terms of MLL in both networks",
            "Huang et al. 2024 with Liu et al. 2022",
            "memory for two networks",
            "not measured yet",
            "abdominal MR, 600 iterations: Dice +0.176; stock at equal time more",
        ),
        TrainerEntry(
            "nnUNetTrainerPaNNMLL",
            "nnunet_ext.trainers.combined",
            "PaNN with the boundary and pixel terms of MLL on fully labelled samples",
            "Zhou et al. 2019 with Liu et al. 2022",
            "as nnUNetTrainerPaNN",
            "not measured yet",
            "abdominal MR, 4 full cases: as MLL on these alone",
        ),
    )
}
