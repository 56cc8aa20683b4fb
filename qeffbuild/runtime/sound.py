"""A WAV file -> samples between -1 and 1 at the rate that a model hears, and the inputs that its processor makes."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import Any

import numpy as np

from qeffbuild.errors import RunError
from qeffbuild.signature import Tensor

_HINT = "convert it to WAV with plain samples (PCM): ffmpeg -i IN -ac 1 -ar 16000 OUT.wav"


def read_wav(path: Path, rate: int) -> np.ndarray:
    """Channels are averaged, other rates converted."""
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, found = file.getnchannels(), file.getsampwidth(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except OSError as cause:
        raise RunError("run.audio", f"audio: {path} cannot be read: {cause.strerror}", hint="check the path") from cause
    except (wave.Error, EOFError) as cause:
        raise RunError("run.audio", f"audio: {path} is no WAV file that we read: {cause}", hint=_HINT) from cause
    samples = _as_numbers(raw, width, path)
    samples = samples[: len(samples) // channels * channels].reshape(-1, channels).mean(axis=1)
    if not samples.size or found <= 0:
        raise RunError("run.audio", f"audio: {path} has no samples", hint="record something")
    return resample(samples, found, rate).astype(np.float32)


def _as_numbers(raw: bytes, width: int, path: Path) -> np.ndarray:
    whole = raw[: len(raw) // width * width]
    if width == 1:  # the one width that is unsigned
        return (np.frombuffer(whole, np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        parts = np.frombuffer(whole, np.uint8).reshape(-1, 3).astype(np.int32)
        return ((parts[:, 0] << 8 | parts[:, 1] << 16 | parts[:, 2] << 24) >> 8) / float(1 << 23)
    if width in (2, 4):
        return np.frombuffer(whole, f"<i{width}").astype(np.float64) / float(1 << (8 * width - 1))
    raise RunError("run.audio", f"audio: {path} has samples of {width} bytes", hint=_HINT)


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """The same sound at another rate: its spectrum, cut or continued with silence."""
    if from_rate == to_rate:
        return samples
    count = max(1, round(len(samples) * to_rate / from_rate))
    spectrum = np.fft.rfft(samples)
    wanted = np.zeros(count // 2 + 1, spectrum.dtype)
    shared = min(len(spectrum), len(wanted))
    wanted[:shared] = spectrum[:shared]
    return np.fft.irfft(wanted, count) * (count / len(samples))


class Hearing:
    """The processor of a package: its rate, how long a sound may be, and the model's inputs."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoFeatureExtractor

        try:
            self.extractor: Any = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, ImportError) as cause:
            raise RunError(
                "run.processor",
                f"the package does not say how sound is prepared: {next(iter(str(cause).splitlines()), '')}",
                where=str(folder),
                hint="build from a model folder that has a preprocessor_config.json",
            ) from cause
        self.rate = int(self.extractor.sampling_rate)

    def inputs(self, samples: np.ndarray, wanted: Tensor) -> np.ndarray:
        """One row of the graph's sound input, without what the processor itself masks behind it."""
        made = self.extractor(samples, sampling_rate=self.rate, return_tensors="np")
        if wanted.name not in made:
            raise RunError(
                "run.processor",
                f"the processor makes {', '.join(made)}, but the model takes {wanted.name}",
                hint="build from a folder whose preprocessor_config.json is this model's own",
            )
        if len(made[wanted.name]) > 1:
            found = f"audio: {len(samples) / self.rate:.1f} s of sound, which the model's processor takes apart"
            raise RunError("run.audio", found, hint="cut it into pieces")
        row, shown = np.asarray(made[wanted.name][0], np.float32), made.get("attention_mask")
        if len(row.shape) != len(wanted.axes) - 1 or any(
            isinstance(axis, int) and axis != size for axis, size in zip(wanted.axes[1:], row.shape, strict=True)
        ):
            raise RunError(
                "run.processor",
                f"the processor makes features of shape {list(row.shape)}, but the model takes {list(wanted.axes[1:])}",
                hint="build from a folder whose preprocessor_config.json is this model's own",
            )
        return row if shown is None or len(shown[0]) != len(row) else row[: int(np.asarray(shown[0]).sum())]

    def check(self, samples: np.ndarray, most: int, name: str) -> None:
        if len(samples) > most:
            raise RunError(
                "run.audio",
                f"audio: {name} is {len(samples) / self.rate:.1f} s long, but {most / self.rate:.1f} s fit",
                hint="cut it into pieces",
            )
