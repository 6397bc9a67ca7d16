"""An export: created from its configuration, run, checked on images, and reported.

The files are written to a hidden folder, and appear once each of them has been run again and
answers as the network does.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mindspore as ms
import numpy as np
from mindspore import nn

from mindcv_ghost import compat
from mindcv_ghost.analysis.complexity import count_parameters
from mindcv_ghost.config import Config
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.evaluator import NetworkForward
from mindcv_ghost.errors import UserError
from mindcv_ghost.export.mindir_file import write_mindir
from mindcv_ghost.export.verification import TOLERANCE, TOLERANCE_FP16
from mindcv_ghost.inference.description import ModelDescription, Preprocessing
from mindcv_ghost.run.acceleration import create_compiler, use_native_kernels
from mindcv_ghost.run.check_images import (
    CheckBatch,
    CheckImages,
    SyntheticImages,
    ValidationImages,
)
from mindcv_ghost.run.exported_file import ExportedFile
from mindcv_ghost.run.parts import create_initial_network, graph_settings, open_validation_set
from mindcv_ghost.run.preprocessing import describe_recipe
from mindcv_ghost.run.session import Session
from mindcv_ghost.storage.provenance import sha256_of
from mindcv_ghost.storage.staging import staged
from mindcv_ghost.surgery.deploy import deploy, has_deploy_form
from mindcv_ghost.version import __version__

if TYPE_CHECKING:
    import onnx

__all__ = ["ExportRun", "create_export", "for_export", "report_export"]

_logger = logging.getLogger(__name__)


def for_export(config: Config) -> Config:
    """Adapt a recipe: graph mode, and the CPU unless another device is asked for."""
    asked = config.system.device_target
    device = "CPU" if asked == "auto" else asked
    system = dataclasses.replace(config.system, device_target=device, mode=0)
    return dataclasses.replace(config, system=system)


def create_export(config: Config, session: Session) -> ExportRun:
    """Put an export together.

    Args:
        config: the run's configuration, of :func:`for_export`.
        session: the device.

    Raises:
        UserError: if data, checkpoint or model can't be used.
    """
    ms.set_seed(config.system.seed)
    description = describe_recipe(config)
    assert description.preprocessing is not None
    images: CheckImages = SyntheticImages(description.preprocessing)
    names, num_classes = description.class_names, config.model.num_classes
    if config.names_data and config.export.verify_images != 0:
        val_set, num_classes, names = open_validation_set(config)
        images = ValidationImages(config, val_set)
    assert num_classes is not None  # the command asks for it
    network, _ = create_initial_network(config, num_classes)
    network.set_train(False)
    description = dataclasses.replace(
        description,
        num_classes=num_classes,
        class_names=names if len(names) == num_classes else (),
        recipe=config.to_yaml(),
        checkpoint=_checkpoint_facts(config),
        embedded_preprocessing=config.export.embed_preprocess,
        versions={"mindcv_ghost": __version__, **compat.installed_versions()},
    )
    return ExportRun(config, session.device, network, description, images)


def _checkpoint_facts(config: Config) -> dict[str, Any]:
    path = config.model.ckpt_path
    if not path:
        return {}
    ema = config.evaluate.use_ema
    return {"file": Path(path).name, "sha256": sha256_of(path), "ema": ema}


@dataclass
class ExportRun:
    """An export that is ready to start.

    Args:
        config: the run's configuration.
        device: Ascend, GPU or CPU.
        network: with its weights, in evaluation mode; native operators enter it after the export.
        description: what travels with the files, before their accuracy is known.
        images: to compare the files with the network on.
    """

    config: Config
    device: str
    network: nn.Cell
    description: ModelDescription
    images: CheckImages

    @property
    def _preprocessing(self) -> Preprocessing:
        preprocessing = self.description.preprocessing
        assert preprocessing is not None  # a recipe always has one
        return preprocessing

    def run(self) -> dict[str, Any]:
        """Write the files, check them, and give them their names.

        Returns:
            What was done, for :func:`report_export`.

        Raises:
            UserError: if the network can't be exported or a folder can't be written.
            VerificationError: if a file doesn't answer as the network does, or int8 costs too much;
                nothing is written.
        """
        export, output = self.config.export, Path(self.config.export.output)
        try:
            with staged(output) as folder:
                model, files = self._write(folder)
                answers = self._verify(files)
                if model is not None and export.int8:
                    files.append(self._quantise(model, folder, answers))
                for file in files:
                    file.describe(self.images.split)
                names = sorted(path.name for path in folder.iterdir())
        except OSError as error:
            raise UserError(
                f"--output {output}: the files can't be written ({error.strerror or error}). "
                "Nothing was written; free some space, or give another folder."
            ) from error
        try:
            self._write_for_others([output / file.path.name for file in files])
        except UserError as problem:
            raise UserError(f"{problem} The network's own files are whole, in {output}.") from None
        return self._summary(files, [output / name for name in names])

    def _write(self, folder: Path) -> tuple[onnx.ModelProto | None, list[ExportedFile]]:
        """Write the formats that are asked for; return the ONNX model without preprocessing."""
        export, name = self.config.export, self.config.model.model
        network = deploy(self.network) if has_deploy_form(self.network) else self.network
        if network is not self.network:
            parameters = format(count_parameters(network), ",")
            _logger.info("%s in its deploy form: %s parameters", name, parameters)
        size = self._preprocessing.height, self._preprocessing.width
        channels = self.config.model.in_channels
        model, files = None, []
        if "onnx" in export.format:
            from mindcv_ghost.export.onnx_file import build_onnx

            model = build_onnx(
                network,
                image_size=size,
                in_channels=channels,
                dynamic=export.dynamic,
                fp16=export.fp16,
            )
            tolerance = TOLERANCE_FP16 if export.fp16 else TOLERANCE
            path = folder / f"{name}.onnx"
            files.append(self._save_onnx(model, path, self.description, tolerance))
        if "mindir" in export.format:
            write = partial(
                write_mindir,
                network,
                folder / f"{name}.mindir",
                image_size=size,
                in_channels=channels,
            )
            try:
                path, *_ = write(dynamic=export.dynamic)
            except UserError as problem:
                if not export.dynamic:
                    raise
                _logger.warning("the .mindir file is for one image of one size a call: %s", problem)
                path, *_ = write(dynamic=())
            files.append(ExportedFile(path, self.description, TOLERANCE))
        return model, files

    def _save_onnx(
        self,
        model: onnx.ModelProto,
        path: Path,
        description: ModelDescription,
        tolerance: float | None,
    ) -> ExportedFile:
        if description.embedded_preprocessing:
            from mindcv_ghost.export.preprocessing_graph import embed_preprocessing

            model = embed_preprocessing(model, self._preprocessing)
        path.write_bytes(model.SerializeToString())
        return ExportedFile(path, description, tolerance)

    def _verify(self, files: list[ExportedFile]) -> list[np.ndarray]:
        """Run each file on the images, and compare it with the network.

        Returns:
            The network's classes, batch by batch.
        """
        _logger.info("comparing with the network on %s", self.images.what)
        logits = self._reference()
        answers: list[np.ndarray] = []
        for batch in self._batches():
            expected = logits(batch.images)
            if not answers:
                self._compare_other_shapes(batch, files, logits)
            for file in files:
                file.check(batch, expected)
            answers.append(expected.argmax(1))
        for file in files:
            _logger.info("%s", file.comparison)
        return answers

    def _batches(self) -> Iterator[CheckBatch]:
        return self.images.batches(pictures=self.description.embedded_preprocessing)

    def _quantise(
        self, model: onnx.ModelProto, folder: Path, answers: list[np.ndarray]
    ) -> ExportedFile:
        """Write the int8 file, and count its hits on the images."""
        from mindcv_ghost.run.quantisation import quantise_network

        quantised = quantise_network(
            model, self.config.export, self._preprocessing, self.images, folder
        )
        del quantised.model.metadata_props[:]  # the description comes at the end, and says it all
        description = dataclasses.replace(self.description, quantisation=quantised.record())
        path = folder / f"{self.config.model.model}_int8.onnx"
        file = self._save_onnx(quantised.model, path, description, None)
        for batch, classes in zip(self._batches(), answers):
            file.check(batch, np.eye(description.num_classes, dtype=np.float32)[classes])
        return file

    def _write_for_others(self, files: list[Path]) -> None:
        """Write the web page and the model repository, of the int8 file if there is one."""
        export = self.config.export
        path = [file for file in files if file.suffix == ".onnx"][-1:]
        if export.web:
            from mindcv_ghost.export.web import write_web_page

            write_web_page(Path(export.web), *path)
            _logger.info("written: %s (python -m http.server --directory %s)", *2 * [export.web])
        if export.triton:
            from mindcv_ghost.export.serving import write_triton_repository

            write_triton_repository(Path(export.triton), *path)
            _logger.info("written: %s (tritonserver --model-repository)", export.triton)

    def _compare_other_shapes(
        self,
        batch: CheckBatch,
        files: list[ExportedFile],
        logits: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        for other in self._of_other_shapes(batch):
            try:
                expected = logits(other.images)
            except Exception as error:  # whatever MindSpore's compiler raises
                raise UserError(
                    f"the network itself can't be run on images of {other.images.shape[2:]}: give "
                    "--dynamic batch"
                ) from error
            for file in files:
                file.compare(other, expected)

    def _of_other_shapes(self, batch: CheckBatch) -> Iterator[CheckBatch]:
        """Yield what a file with free sizes has to take, too: one image, and a smaller one."""
        one = CheckBatch(batch.images[:1], None, batch.names[:1], batch.pictures[:1])
        dynamic = self.config.export.dynamic
        if "batch" in dynamic:
            yield one
        if "size" in dynamic:
            high, wide = (max(side // 2, side - 32) for side in one.images.shape[2:])
            yield dataclasses.replace(one, images=one.images[:, :, :high, :wide])

    def _reference(self) -> Callable[[np.ndarray], np.ndarray]:
        """Return the network as validation runs it: images -> logits, float32 arrays."""
        config = self.config
        library = use_native_kernels(self.network, config.system, "O0", local_ranks=1)
        settings = graph_settings(config, library)
        compile_cell = create_compiler(config.system, self.device, Collectives(0, 1), settings)
        forward = NetworkForward(self.network, compile=compile_cell)
        largest = 0

        def run(images: np.ndarray) -> np.ndarray:
            nonlocal largest
            forward.prepare(ms.Tensor(images))
            # Every other number of images would be another graph.
            largest, missing = max(largest, len(images)), max(largest - len(images), 0)
            padded = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
            return forward(ms.Tensor(padded))[: len(images)]

        return run

    def _summary(self, files: list[ExportedFile], paths: list[Path]) -> dict[str, Any]:
        return {
            "model": self.config.model.model,
            "files": [str(path) for path in paths],
            "images": self.images.count,
            "synthetic": not self.images.split,
            "accuracy": {file.path.name: file.description.accuracy for file in files},
            "quantisation": {
                file.path.name: file.description.quantisation
                for file in files
                if file.description.quantisation
            },
            "largest_difference": {
                file.path.name: file.comparison.largest for file in files if file.comparison
            },
        }


def report_export(summary: dict[str, Any]) -> None:
    """Log which files there are now, and print the summary as JSON."""
    for path in map(Path, summary["files"]):
        size = sum(part.stat().st_size for part in (path, *path.rglob("*")))
        words = f"{size / 1e6:.1f} MB" if size > 1e5 else f"{size / 1e3:.1f} kB"
        _logger.info("written: %s (%s)", path, words)
    print(json.dumps(summary), flush=True)
