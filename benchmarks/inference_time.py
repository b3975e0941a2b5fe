"""Time of stock inference with trained models, case by case in turn: the same images, one process, no other work.

    python benchmarks/inference_time.py STOCK_MODEL MODEL [MODEL ...] --cases 4 --machine NAME -o FILE.json

A model is a folder of results; all are of one dataset, each of another trainer. Each case is predicted by each model in
turn, so that whatever else slows the machine slows all of them; the ratio is that of the sums of medians to the first
model. Networks are loaded and warmed up before.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from trained_models import predictor_of, trainer_of, training_files, validation_cases


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each model and case."""
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    models = [predictor_of(model, arguments.fold, device, arguments.mirroring) for model in arguments.models]
    files = training_files(arguments.models[0])
    cases = validation_cases(arguments.models[0] / f"fold_{arguments.fold}")[: arguments.cases]
    reader = models[0].plans_manager.image_reader_writer_class()
    seconds: list[dict[str, list[float]]] = [{} for _ in models]
    for case in cases:
        image, about = reader.read_images(files[case]["images"])
        prepared = []
        for model in models:
            preprocessor = model.configuration_manager.preprocessor_class()
            data, _, _ = preprocessor.run_case_npy(
                image, None, about, model.plans_manager, model.configuration_manager, model.dataset_json
            )
            prepared.append(torch.from_numpy(data))
        for repeat in range(arguments.repeats + 1):
            for model, data, taken in zip(models, prepared, seconds, strict=True):
                start = time.perf_counter()
                model.predict_sliding_window_return_logits(data)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if repeat:  # the first warms up
                    taken.setdefault(case, []).append(time.perf_counter() - start)
        print(case, flush=True)
    totals = [sum(median(each) for each in taken.values()) for taken in seconds]
    return {
        "machine": arguments.machine,
        "torch": torch.__version__,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "dataset": arguments.models[0].parent.name,
        "cases": cases,
        "mirroring": arguments.mirroring,
        "models": {
            trainer_of(model): {"seconds a case": round(total / len(cases), 3), "ratio": round(total / totals[0], 3)}
            for model, total in zip(arguments.models, totals, strict=True)
        },
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mirroring", action="store_true", help="predict mirrored images too")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--machine", required=True, help="said in the result")
    parser.add_argument("-o", dest="output", type=Path, required=True)
    arguments = parser.parse_args()
    result = measure(arguments)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["models"], indent=2))


if __name__ == "__main__":
    main()
