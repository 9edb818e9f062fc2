"""Run scvi-tools' SCVI on one split of one data set; its codes, scores and curve go into an npz file.

Runs in the peers' environment (``peers.txt``), on one thread unless ``--threads`` says otherwise:

    python benchmarks/scvi_peer.py --dataset pbmc3k kang --seed 0 1 2 --setting best defaults --out DIR

Held-out proportions are decoded from the mean of the approximate posterior. The clock stops while the
model is evaluated. The test cells decide nothing: the weights kept are those of the epoch with the fewest
nats per held-out molecule on the validation cells (settings that stop early), or the last (``defaults``).
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import data
import numpy as np
import protocol
import torch


@dataclass(frozen=True)
class Setting:
    """Hyperparameters of SCVI and of its training; what is not named stays at scvi-tools' default.

    Parameters
    ----------
    likelihood
        ``nb`` or ``zinb``.
    n_latent
        Dimension of the code.
    lr
        Learning rate of Adam.
    epochs
        The most epochs.
    patience
        Stop after so many epochs, and 500 steps, without fewer validation nats and restore the best
        weights; None trains all epochs and keeps the last weights.
    """

    likelihood: str = "nb"
    n_latent: int = 10
    lr: float = 1e-3
    epochs: int = 400
    patience: int | None = 40


SETTINGS = {
    "defaults": Setting(likelihood="zinb", patience=None),
    "nb10": Setting(),
    "nb20": Setting(n_latent=20),
    "nb10_fast": Setting(lr=3e-3),
    "nb20_fast": Setting(n_latent=20, lr=3e-3),
    "zinb10": Setting(likelihood="zinb"),
}
# Fewest validation nats on pbmc3k, seed 0: nb20 5.0984, nb10 5.1044, nb20_fast 5.1048, nb10_fast 5.1111,
# zinb10 5.2275. Test cells and labels chose nothing.
BEST = "nb20"
# A few hundred cells are few steps an epoch; their curve needs more epochs to show that it has turned.
LEAST_STEPS = 500


class Judge:
    """Score an SCVI module on halves of molecules, without its data loaders."""

    def __init__(self, model: Any, *, split: protocol.Split, levels: np.ndarray) -> None:
        self.module, self.split, self.levels = model.module, split, levels

    @torch.no_grad()
    def infer(self, counts: Any, rows: np.ndarray, *, decode: bool) -> tuple[np.ndarray, np.ndarray]:
        """Posterior means (and decoded proportions) of the rows of a CSR matrix."""
        was_training = self.module.training
        self.module.eval()
        codes, proportions = [], []
        for block in np.array_split(rows, max(1, len(rows) // 512)):
            x = torch.from_numpy(counts[block].toarray())
            batch = torch.from_numpy(self.levels[block]).long()[:, None]
            found = self.module.inference(x, batch)
            mean = found["qz"].loc
            codes.append(mean.numpy())
            if decode:
                size = x.sum(1, keepdim=True).clamp(min=1).log()
                proportions.append(self.module.generative(mean, size, batch)["px"].scale.numpy())
        self.module.train(was_training)
        return np.concatenate(codes), np.concatenate(proportions) if decode else np.empty(0)

    def nats(self, rows: np.ndarray) -> float:
        """Nats per molecule of the second halves, codes inferred from the first."""
        _, proportions = self.infer(self.split.first, rows, decode=True)
        return protocol.nats(self.split.second[rows], proportions)


def watch(judge: Judge, *, every: int, patience: int | None) -> Any:
    """A Lightning callback that draws the curve, keeps the best weights and stops the training."""
    from lightning.pytorch.callbacks import Callback

    class Watch(Callback):
        def __init__(self) -> None:
            self.curve: list[tuple[float, int, float, float]] = []
            self.best, self.best_epoch, self.weights = np.inf, -1, None
            self.spent, self.started = 0.0, 0.0

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.started = time.perf_counter()

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            epoch = trainer.current_epoch + 1
            if epoch % every and epoch != trainer.max_epochs:
                return
            now = time.perf_counter()
            seconds = now - self.started - self.spent
            value = judge.nats(judge.split.validation)
            self.curve.append((seconds, epoch, value, judge.nats(judge.split.test)))
            if value < self.best:
                self.best, self.best_epoch = value, epoch
                if patience is not None:
                    self.weights = {k: v.clone() for k, v in judge.module.state_dict().items()}
            elif patience is not None and epoch - self.best_epoch >= patience:
                steps = (epoch - self.best_epoch) * trainer.num_training_batches
                trainer.should_stop = steps >= LEAST_STEPS
            self.spent += time.perf_counter() - now

    return Watch()


def run(
    name: str, *, seed: int, setting: Setting, batch: str | None, half: bool, every: int
) -> dict[str, Any]:
    """Fit SCVI on one split and return everything that the npz file holds."""
    import scvi
    from anndata import AnnData

    adata = data.load(name)
    split = protocol.split(adata.X, name=name, seed=seed)
    column = adata.obs[batch].astype("category") if batch else None
    levels = np.zeros(adata.n_obs, dtype=np.int64)
    counts = split.first if half else adata.X
    obs = adata.obs.iloc[split.train].copy()
    training = AnnData(counts[split.train].copy(), obs=obs, var=adata.var[[]].copy())
    if batch:
        levels = column.cat.codes.to_numpy(np.int64)
        training.obs[batch] = column.iloc[split.train]
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(training, batch_key=batch)
    model = scvi.model.SCVI(training, gene_likelihood=setting.likelihood, n_latent=setting.n_latent)
    judge = Judge(model, split=split, levels=levels)
    callback = watch(judge, every=every, patience=setting.patience)
    before = peak_memory(reset=True)
    model.train(
        max_epochs=setting.epochs,
        train_size=1.0,
        accelerator="cpu",
        callbacks=[callback],
        plan_kwargs={"lr": setting.lr},
        enable_progress_bar=False,
    )
    after = peak_memory()
    if callback.weights is not None:
        judge.module.load_state_dict(callback.weights)
    codes, _ = judge.infer(counts, split.fit, decode=False)
    test_codes, proportions = judge.infer(split.first, split.test, decode=True)
    curve = np.array(callback.curve)
    return {
        "codes": codes,
        "fit": split.fit,
        "test_codes": test_codes,
        "test": split.test,
        "nats": protocol.nats(split.second[split.test], proportions),
        "validation_nats": judge.nats(split.validation),
        "curve": curve,
        "curve_columns": np.array(["seconds", "epoch", "validation_nats", "test_nats"]),
        "seconds": curve[-1, 0],
        "best_epoch": callback.best_epoch if setting.patience is not None else int(curve[-1, 1]),
        "memory_mb": after,
        "memory_rise_mb": after - before,
        "setting": json.dumps({**asdict(setting), "batch": batch, "half": half, "every": every}),
    }


def peak_memory(*, reset: bool = False) -> float:
    """Peak resident size of this process in MB since the last reset (Linux; elsewhere since its start)."""
    if reset:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return float(status.split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def arguments() -> argparse.Namespace:
    """Read the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--dataset", nargs="+", default=list(data.FIVE), choices=list(data.KNOWN))
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--setting", nargs="+", default=["best", "defaults"], choices=[*SETTINGS, "best"])
    parser.add_argument("--batch", default=None, help="column of the batches; none is the default")
    parser.add_argument("--epochs", type=int, default=None, help="another number of epochs")
    parser.add_argument("--every", type=int, default=5, help="evaluate every so many epochs")
    parser.add_argument("--half", action="store_true", help="fit on the first half of the molecules only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="run what was run before, too")
    parser.add_argument("--out", type=Path, required=True, help="folder of the npz files")
    return parser.parse_args()


def main() -> None:
    """Run what is asked for and not yet there, one after the other."""
    options = arguments()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    options.out.mkdir(parents=True, exist_ok=True)
    for seed, name, chosen in product(options.seed, options.dataset, options.setting):
        parts = [name, chosen, options.batch, "half" if options.half else None, str(seed)]
        path = options.out / f"{'-'.join(filter(None, parts))}.npz"
        if path.exists() and not options.again:
            continue
        setting = SETTINGS[BEST if chosen == "best" else chosen]
        if options.epochs:
            setting = replace(setting, epochs=options.epochs)
        how = {"batch": options.batch, "half": options.half, "every": options.every}
        found = run(name, seed=seed, setting=setting, **how)
        np.savez_compressed(path, **found)
        print(
            f"{path.stem}: nats {found['nats']:.4f} (validation {found['validation_nats']:.4f}) "
            f"best epoch {found['best_epoch']} in {found['seconds']:.0f} s, "
            f"memory +{found['memory_rise_mb']:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
