"""`nnkit evaluate`: loss and accuracy of a trained network."""

from typing import Annotated

import typer

from nnkit.cli import options
from nnkit.errors import UsageError


def evaluate(
    checkpoint: options.CheckpointPath,
    data: options.Data = None,
    split: Annotated[str, typer.Option(help="The samples to use: test or train.")] = "test",
    backend: options.Backend = "numpy",
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Measure loss and accuracy of a checkpoint on a data set."""
    if split not in ("test", "train"):
        raise UsageError(f"--split {split}: give test or train")

    from nnkit.cli.network import open_network
    from nnkit.data import load_dataset
    from nnkit.train.checkpoints import load_checkpoint
    from nnkit.train.evaluation import DeviceSamples, Evaluator

    saved = load_checkpoint(checkpoint)
    dataset = load_dataset(data)
    samples = dataset.test if split == "test" else dataset.train
    network = open_network(saved, samples.images.shape[1], backend, device)
    result = Evaluator(network).evaluate(DeviceSamples(samples, network.device))
    if json:
        options.print_json(
            {
                "loss": result.loss,
                "accuracy": result.accuracy,
                "samples": len(samples),
                "split": split,
                "epoch": saved.position.epoch,
                "backend": backend,
                "device": network.device.name,
            }
        )
    else:
        print(
            f"{split} accuracy {100 * result.accuracy:.2f} %, loss {result.loss:.4f}, "
            f"on {len(samples)} samples"
        )
