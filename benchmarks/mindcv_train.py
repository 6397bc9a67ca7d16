"""A replacement for MindCV 0.3.0's train.py, which its wheel doesn't contain.

It follows that script (Apache-2.0) for one process and one recipe: the same calls of the
installed MindCV in the same order (create_dataset, create_transforms, create_loader, create_model,
create_loss, create_scheduler, create_optimizer, create_trainer, StateMonitor with its
SummaryRecord, Model.train), with the recipe's values and otherwise the script's defaults. Two
things differ: jit_level, which the script sets to O2 for Ascend, is left at MindSpore's default;
and num_parallel_workers, whose default 8 MindSpore refuses on a machine of fewer cores, is an
argument. StateMonitor writes the seconds of each epoch.

    python benchmarks/mindcv_train.py recipe.yaml
"""

from __future__ import annotations

import os
import sys

import yaml


def main(path: str) -> None:
    """Train with a recipe."""
    import mindspore as ms
    from mindcv.data import create_dataset, create_loader, create_transforms
    from mindcv.loss import create_loss
    from mindcv.models import create_model
    from mindcv.optim import create_optimizer
    from mindcv.scheduler import create_scheduler
    from mindcv.utils import StateMonitor, create_trainer, get_metrics, set_seed

    with open(path, encoding="utf-8") as file:
        args = yaml.safe_load(file)
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    set_seed(args["seed"])
    workers = args["num_parallel_workers"]
    dataset = create_dataset(
        name="imagenet",
        root=args["data_dir"],
        split="train",
        shuffle=True,
        num_parallel_workers=workers,
    )
    transforms = create_transforms(
        dataset_name="imagenet",
        is_training=True,
        image_resize=args["image_resize"],
        scale=tuple(args["scale"]),
        hflip=args["hflip"],
        color_jitter=args["color_jitter"],
        interpolation="bilinear",
    )
    loader = create_loader(
        dataset=dataset,
        batch_size=args["batch_size"],
        drop_remainder=True,
        is_training=True,
        num_classes=args["num_classes"],
        transform=transforms,
        num_parallel_workers=workers,
    )
    steps = loader.get_dataset_size()
    network = create_model(args["model"], num_classes=args["num_classes"])
    loss = create_loss(name="CE", label_smoothing=args["label_smoothing"])
    schedule = create_scheduler(
        steps,
        scheduler=args["scheduler"],
        lr=args["lr"],
        min_lr=args["min_lr"],
        warmup_epochs=args["warmup_epochs"],
        decay_epochs=args["decay_epochs"],
        num_epochs=args["epoch_size"],
    )
    optimizer = create_optimizer(
        network,
        opt=args["opt"],
        lr=schedule,
        weight_decay=args["weight_decay"],
        momentum=args["momentum"],
        weight_decay_filter=args["weight_decay_filter"],
    )
    metrics = get_metrics(args["num_classes"])
    trainer = create_trainer(network, loss, optimizer, metrics, "O0", None, "fixed", loss_scale=1.0)
    monitor = StateMonitor(
        trainer,
        model_name=args["model"],
        dataset_sink_mode=False,
        metric_name=list(metrics.keys()),
        ckpt_save_dir=args["ckpt_save_dir"],
        ckpt_save_policy="latest_k",
        summary_dir=os.path.join(args["ckpt_save_dir"], "summary"),
        log_interval=args["log_interval"],
    )
    trainer.train(args["epoch_size"], loader, callbacks=[monitor], dataset_sink_mode=False)


if __name__ == "__main__":
    main(sys.argv[1])
