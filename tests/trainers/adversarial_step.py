"""One step of an adversarial trainer against a plain reading of the papers' equations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from tests.training.building import random_batch


def reference_step(trainer, batch):
    """The equations written out with literal logarithms: losses, and the gradient of L_G for the network."""
    network = copy.deepcopy(trainer.network)
    discriminators = [copy.deepcopy(helper.module) for helper in trainer.auxiliary.values()]
    outputs = network(batch["data"])
    targets = batch["target"]
    total = trainer.loss(outputs, targets)
    if not trainer.enable_deep_supervision:
        outputs, targets = [outputs], [targets]
    terms = {"basic": total.item()}
    manager = trainer.label_manager
    for i, (weight, discriminator) in enumerate(zip(trainer.options.adversarial_weights, discriminators, strict=True)):
        target = targets[i]
        if manager.has_regions:
            fake = torch.sigmoid(outputs[i])
            annotated = ~target[:, -1:] if manager.has_ignore_label else torch.ones_like(target[:, :1])
            real = target[:, : fake.shape[1]].float()
        else:
            fake = torch.softmax(outputs[i], 1)
            annotated = target != manager.ignore_label if manager.has_ignore_label else torch.ones_like(target)
            real = torch.stack([(target[:, 0] == c).float() for c in range(fake.shape[1])], 1)
        fake, real = fake * annotated, real * annotated
        if trainer.options.conditional:
            image = functional.adaptive_avg_pool3d if batch["data"].ndim == 5 else functional.adaptive_avg_pool2d
            seen = image(batch["data"], fake.shape[2:])
            fake, real = torch.cat([seen, fake], 1), torch.cat([seen, real], 1)
        # Lian et al., Eq. 5 and 6; Conze et al., Eq. 2
        loss = (
            -torch.log(torch.sigmoid(discriminator(real))).mean()
            - torch.log(1 - torch.sigmoid(discriminator(fake.detach()))).mean()
        )
        terms[f"discriminator_{i + 1}"] = loss.item()
        betas, rate = trainer.options.discriminator_betas, trainer.options.discriminator_lr
        optimizer = torch.optim.Adam(discriminator.parameters(), rate, betas)
        loss.backward()
        optimizer.step()
        discriminator.requires_grad_(False)  # its gradient stays that of Eq. 5
        judged = torch.sigmoid(discriminator(fake))
        saturating = trainer.options.generator_form == "saturating"
        term = torch.log(1 - judged).mean() if saturating else -torch.log(judged).mean()
        terms[f"adversarial_{i + 1}"] = term.item()
        total = total + weight * term
    total.backward()
    return terms, total.item(), {n: p.grad for n, p in network.named_parameters() if p.grad is not None}, discriminators


def dice_loss(trainer, logits, target):
    """nnU-Net's: of the foreground classes, negative, with 1e-5 against division by 0, per sample or batch."""
    probabilities = torch.softmax(logits, 1)[:, 1:]
    truth = functional.one_hot(target[:, 0].long(), logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    axes = [*([0] if trainer.configuration_manager.batch_dice else []), *range(2, logits.ndim)]
    overlap, size = (probabilities * truth).sum(axes), (probabilities + truth).sum(axes)
    return -((2 * overlap + 1e-5) / (size + 1e-5)).mean()


def assert_step_is_the_equation(trainer):
    """Losses, gradients and discriminators after one step of a trainer that is not yet initialised."""
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    batch = random_batch(trainer)
    terms, total, gradients, discriminators = reference_step(trainer, batch)

    output = trainer.train_step(copy.deepcopy(batch))

    assert output["loss"] == pytest.approx(total, rel=1e-4)
    for name, value in terms.items():
        assert output[name] == pytest.approx(value, rel=1e-3), name
    norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
    clip = min(1.0, 12 / float(norm))
    for name, parameter in trainer.network.named_parameters():
        if name in gradients:
            assert torch.allclose(parameter.grad, gradients[name] * clip, rtol=1e-3, atol=1e-6), name
    for helper, expected in zip(trainer.auxiliary.values(), discriminators, strict=True):
        for p, q in zip(helper.module.parameters(), expected.parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=1e-3, atol=1e-7)  # of Eq. 5 alone, not of Eq. 4
            clear = q.grad.abs() > 1e-5  # Adam's first step is the rate, with the sign of the gradient
            assert clear.any()
            assert torch.allclose(p[clear], q[clear], atol=0.1 * trainer.options.discriminator_lr)
