"""Latents on disk: statistics, records, and what an interruption leaves."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from radiovae_jax import files
from radiovae_jax.evaluation import latent_statistics
from radiovae_jax.nn.posterior import DiagonalGaussian
from radiovae_jax.vae import codec, latents

IDENTITY = {"config": {"seed": 42}, "step": 7}


class City:
    """Seven maps whose transmitter is at (map, 2 map)."""

    shape = (8, 16, 1)

    def __len__(self):
        return 7

    def __getitem__(self, index):
        index = int(index)
        antenna = np.zeros(self.shape, np.uint8)
        antenna[index, 2 * index] = 255
        gray = np.full(self.shape, 10 * index, np.uint8)
        buildings = np.full(self.shape, 255 * (index % 2), np.uint8)
        name = np.str_(f"{index}_0")
        return {"name": name, "gray": gray, "buildings": buildings, "antenna": antenna}

    def summary(self):
        return "seven maps"


def encode(raw):
    """Makes latents of the gray value: their mean, and a variance of 4."""
    shape = (len(raw["gray"]), 2, 4, 3)
    mean = np.broadcast_to(raw["gray"][:, :2, :4] / np.float32(10), shape)
    mean = mean + np.arange(3, dtype=np.float32)
    return {"mean": mean, "logvar": np.full(shape, np.log(4), np.float32)}


def export(folder, encode=encode, identity=IDENTITY, **options):
    chosen = dict(keep=("mean", "logvar"), batch_size=2, shard_size=3) | options
    return latents.export(City(), encode, folder, identity, **chosen)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return folder, export(folder)


def test_statistics_are_those_of_what_the_posteriors_draw():
    rng = np.random.default_rng(0)
    mean = rng.normal([1.0, -2.0], [0.5, 2.0], size=(50, 8, 8, 2)).astype(np.float32)
    logvar = rng.normal([-1.0, 1.0], 0.3, size=mean.shape).astype(np.float32)
    parts = [latent_statistics.moments(mean[:20], logvar[:20])]
    parts += [latent_statistics.moments(mean[20:], logvar[20:])]
    found = latent_statistics.statistics(parts[0].merge(parts[1]))
    posterior = DiagonalGaussian(jnp.asarray(mean), jnp.asarray(logvar))
    closed = np.sqrt(np.float64(mean).var((0, 1, 2)) + np.exp(logvar).mean((0, 1, 2)))
    np.testing.assert_allclose(found["std"], closed, rtol=1e-6)
    np.testing.assert_allclose(found["scale_factor"], 1 / closed, rtol=1e-6)
    np.testing.assert_allclose(found["mean"], mean.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["mode_std"], mean.std((0, 1, 2)), rtol=1e-5)
    per_entry = float(jnp.sum(posterior.kl())) / mean.size
    np.testing.assert_allclose(np.mean(found["kl_nats"]), per_entry, rtol=1e-5)


def test_statistics_of_the_export_are_those_of_all_its_maps(unbroken):
    statistics = unbroken[1]["statistics"]
    # Maps 0 to 6 plus the channel's number; 2^2 is the mean of squares of -3 to 3.
    np.testing.assert_allclose(statistics["mean"], [3, 4, 5], rtol=1e-6)
    np.testing.assert_allclose(statistics["mode_std"], [2, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(statistics["std"], [8**0.5] * 3, rtol=1e-6)


def test_both_forms_hold_every_map_with_its_condition(unbroken):
    folder, manifest = unbroken
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    files = sorted(folder.glob("*.array_record"))
    assert [path.name for path in files] == [
        f"latents-0000{i}-of-00003.array_record" for i in range(3)
    ]
    source = ArrayRecordDataSource([str(path) for path in files])
    assert len(source) == manifest["count"] == 7
    stacked = [np.load(path) for path in sorted(folder.glob("*.npz"))]
    for i in range(7):
        record, shard = np.load(io.BytesIO(source[i])), stacked[i // 3]
        assert set(record) == set(shard) == set(manifest["shards"][0]["fields"])
        for name in record:
            np.testing.assert_array_equal(record[name], shard[name][i % 3])
        assert record["name"] == f"{i}_0"
        assert record["transmitter"].tolist() == [i, 2 * i]
        np.testing.assert_array_equal(record["antenna"], City()[i]["antenna"])
        np.testing.assert_array_equal(record["buildings"], City()[i]["buildings"])
        np.testing.assert_allclose(record["mean"][..., 2], i + 2)
    fields = manifest["shards"][0]["fields"]
    assert fields["mean"] == {"shape": [2, 4, 3], "dtype": "float32"}
    assert fields["name"]["dtype"] == "str"


@pytest.mark.parametrize("batch", range(5))
def test_an_interrupted_export_goes_on_to_the_same_bytes(batch, unbroken, tmp_path):
    # Shards of 3 in batches of 2: five batches, of which any may be the last.
    calls = iter(range(9))

    def interrupted(raw):
        if next(calls) == batch:
            raise KeyboardInterrupt
        return encode(raw)

    with pytest.raises(KeyboardInterrupt):
        export(tmp_path, interrupted)
    assert not (tmp_path / "manifest.json").exists()
    # No process has a number above 2^22: this one was killed.
    torn = f".latents-0000{batch // 2}-of-00003.npz.{2**22 + 1}.partial"
    (tmp_path / torn).write_bytes(b"torn")
    again = []
    export(tmp_path, lambda raw: again.append(1) or encode(raw))
    assert len(again) == 5 - 2 * (batch // 2)  # whole shards are not made again
    assert contents(tmp_path) == contents(unbroken[0])


def test_an_export_that_is_done_is_left_alone_and_a_damaged_file_is_made_again(
    unbroken, tmp_path
):
    def never(raw):
        raise AssertionError("encoded again")

    export(tmp_path)
    export(tmp_path, never)
    (tmp_path / "latents-00001-of-00003.array_record").write_bytes(b"damaged")
    (tmp_path / "latents-00002-of-00003.npz").unlink()
    export(tmp_path)
    assert contents(tmp_path) == contents(unbroken[0])


@pytest.mark.parametrize("name", ["manifest.json", "progress.json"])
def test_another_run_is_refused_in_the_same_folder(name, tmp_path):
    files.write_json(tmp_path / name, {"identity": IDENTITY, "shards": []})
    before = contents(tmp_path)
    other = {"config": {"seed": 43}, "step": 7}
    with pytest.raises(ValueError, match=r"config\.seed: 42 there, 43 here\nGive"):
        export(tmp_path, identity=other)
    assert contents(tmp_path) == before


def test_shards_of_unknown_origin_are_refused(tmp_path):
    def killed(raw):
        # Before the first shard is there, the list says of what it will be.
        assert json.loads((tmp_path / "progress.json").read_text()) == {
            "identity": IDENTITY,
            "shards": [],
        }
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(tmp_path, killed)
    (tmp_path / "progress.json").unlink()
    (tmp_path / "latents-00000-of-00009.npz").touch()
    with pytest.raises(ValueError, match=r"00000-of-00009.npz and no list.*remove"):
        export(tmp_path)


@pytest.mark.parametrize(
    "text",
    ['{"identity"', "{}", '{"identity": {}, "shards": [{"files": null}]}'],
)
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        export(tmp_path)


def test_the_noise_of_a_map_does_not_depend_on_its_batch():
    key, zero = jax.random.key(3), jnp.zeros((4, 2, 2, 3))
    whole = codec.sample_each(key, jnp.arange(4), zero, zero + 1)
    part = codec.sample_each(key, jnp.arange(2, 4), zero[:2], zero[:2] + 1)
    np.testing.assert_array_equal(part, whole[2:])
    assert not np.allclose(whole[0], whole[1])
