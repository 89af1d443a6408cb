"""The noise of a run: which one its arguments ask for, and the training split with it."""

from datasets import Dataset

from aga_model.data import (
    RDE,
    NoiseIndex,
    NoiseRecord,
    add_indexed_noise,
    add_noise,
    check_noise,
    make_noise_index,
    read_noise_index,
)

from .arguments import DataArguments


def noise_settings(data_args: DataArguments, run_seed: int) -> tuple[float, float, int]:
    """Both rates and the seed."""
    seed = run_seed if data_args.noise_seed is None else data_args.noise_seed
    return data_args.noisy_correspondence, data_args.caption_errors, seed


def find_noise_index(data_args: DataArguments, run_seed: int) -> NoiseIndex | None:
    """Raise for noise settings that cannot be meant; returns the index, if it is a file's."""
    check_noise(*noise_settings(data_args, run_seed))
    if data_args.noise_index is None:
        return None
    if data_args.noise_index == RDE:
        if not data_args.noisy_correspondence:
            raise ValueError(f"noise_index {RDE} needs the share of the captions: give noisy_correspondence, as 0.2")
        return None
    if data_args.noisy_correspondence:
        raise ValueError("noise_index names a file, which says what is permuted: leave noisy_correspondence out")
    return read_noise_index(data_args.noise_index)


def with_noise(
    train_rows: Dataset,
    data_args: DataArguments,
    run_seed: int,
    held_out: Dataset | None = None,
    index: NoiseIndex | None = None,
) -> tuple[Dataset, NoiseRecord | None]:
    """
    The training split with the noise that was asked for, and its record; None without any.

    Args:
        held_out: what was taken out of it for validation; an index counts these rows as well.
        index: that of a file.
    """
    settings = noise_settings(data_args, run_seed)
    if data_args.noise_index == RDE:
        index = make_noise_index(len(train_rows) + len(held_out or ()), settings[0])
    if index is None:
        noisy, record = add_noise(train_rows, *settings)
    else:
        noisy, record = add_indexed_noise(train_rows, held_out, index, *settings[1:])
    if data_args.leave_out_permuted:
        noisy = noisy.select([row for row in range(len(noisy)) if row not in record.permuted])
    return noisy, (record if any(settings[:2]) or index is not None else None)
