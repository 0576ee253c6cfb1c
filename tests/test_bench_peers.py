"""What `make bench-peers` can be held to without OpenFlamingo's environment."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("setting", "names", "ours", "idefics")
# Shapes of OpenFlamingo 2.0.1, of its layers without their numbers; v: tower, d: language model.
OPENFLAMINGO = {
    "perceiver.latents": "64 v",
    "perceiver.norm.weight": "v",
    "perceiver.norm.bias": "v",
    "perceiver.layers.0.norm_media.weight": "v",
    "perceiver.layers.0.norm_media.bias": "v",
    "perceiver.layers.0.norm_latents.weight": "v",
    "perceiver.layers.0.norm_latents.bias": "v",
    "perceiver.layers.0.to_q.weight": "512 v",
    "perceiver.layers.0.to_kv.weight": "1024 v",
    "perceiver.layers.0.to_out.weight": "v 512",
    "perceiver.layers.1.0.weight": "v",
    "perceiver.layers.1.0.bias": "v",
    "perceiver.layers.1.1.weight": "4v v",
    "perceiver.layers.1.3.weight": "v 4v",
    "lang_encoder.model.layers.gated_cross_attn_layer.attn_gate": "1",
    "lang_encoder.model.layers.gated_cross_attn_layer.ff_gate": "1",
    "lang_encoder.model.layers.gated_cross_attn_layer.attn.norm.weight": "d",
    "lang_encoder.model.layers.gated_cross_attn_layer.attn.norm.bias": "d",
    "lang_encoder.model.layers.gated_cross_attn_layer.attn.to_q.weight": "512 d",
    "lang_encoder.model.layers.gated_cross_attn_layer.attn.to_kv.weight": "1024 v",
    "lang_encoder.model.layers.gated_cross_attn_layer.attn.to_out.weight": "d 512",
    "lang_encoder.model.layers.gated_cross_attn_layer.ff.0.weight": "d",
    "lang_encoder.model.layers.gated_cross_attn_layer.ff.0.bias": "d",
    "lang_encoder.model.layers.gated_cross_attn_layer.ff.1.weight": "4d d",
    "lang_encoder.model.layers.gated_cross_attn_layer.ff.3.weight": "d 4d",
}


@pytest.fixture(scope="module")
def workers():
    """The workers' modules, which lie beside each other and import each other by plain names."""
    sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(ROOT / "benchmarks" / "peers"))
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def peers():
    spec = importlib.util.spec_from_file_location("bench_peers", ROOT / "benchmarks" / "peers.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def shape(workers, peers):
    return workers["setting"].Shape(**peers.SMOKE["shape"])


@pytest.fixture(scope="module")
def ours(workers, shape):
    return workers["ours"].make_model(shape)


def test_openflamingo_has_all_our_weights_under_its_names(workers, shape, ours):
    renamed = workers["names"].for_openflamingo(ours.state_dict())
    assert len(renamed) == len(ours.state_dict())
    sizes = {"v": shape.vision_width, "d": shape.width, "4v": 4 * shape.vision_width, "4d": 4 * shape.width}
    bridge, rest = {}, set()
    for name, weight in renamed.items():
        general = re.sub(r"(layers)\.\d+\.", r"\1.", name, count=1)
        if general.startswith("perceiver") or "gated" in general:
            bridge.setdefault(general, set()).add(tuple(weight.shape))
        else:
            rest.add(re.sub(r"encoder\.tower\..*", "encoder.tower", general))
    wanted = {name: {tuple(sizes.get(n) or int(n) for n in dims.split())} for name, dims in OPENFLAMINGO.items()}
    assert bridge == wanted
    llama = {f"self_attn.{x}_proj" for x in "qkvo"} | {f"mlp.{x}_proj" for x in ("gate", "up", "down")}
    llama |= {"input_layernorm", "post_attention_layernorm"}
    model = "lang_encoder.model."
    assert rest == {"vision_encoder.tower", f"{model}embed_tokens.weight", f"{model}norm.weight"} | {
        "lang_encoder.lm_head.weight"
    } | {f"{model}layers.decoder_layer.{name}.weight" for name in llama}
    blocks = {int(n) for n in re.findall(r"layers\.(\d+)\.gated_cross_attn_layer\.attn_gate", " ".join(renamed))}
    assert blocks == {i for i in range(shape.layers) if (i + 1) % shape.every == 0}


def test_idefics_takes_all_but_the_blocks(workers, shape, ours, tmp_path):
    model = workers["idefics"].make_model(shape)
    weights = ours.state_dict()
    workers["setting"].save_weights(weights, tmp_path)
    workers["idefics"].load(model, tmp_path)
    renamed = workers["names"].for_idefics(weights)
    taken, own = model.state_dict(), 0
    for name, weight in taken.items():
        if "gated_cross_attn_layers" in name:
            own += weight.numel()
        else:
            assert torch.equal(weight, renamed[name]), name
    keys, values = weights["model.resampler.layers.0.attention.to_kv.weight"].chunk(2)
    assert torch.equal(taken["model.perceiver_resampler.blocks.0.0.k_proj.weight"], keys)
    assert torch.equal(taken["model.perceiver_resampler.blocks.0.0.v_proj.weight"], values)
    assert own > 0
    (tmp_path / "lm_head.weight.safetensors").unlink()
    with pytest.raises(SystemExit, match=r"1 of Idefics, first lm_head\.weight"):
        workers["idefics"].load(model, tmp_path)


def test_a_decode_step_reads_572_mb_at_the_shape_that_is_measured(workers):
    with torch.device("meta"):
        model = workers["ours"].make_model(workers["setting"].Shape())
    assert 4 * workers["ours"].values_per_token(model) / 1e6 == pytest.approx(572, rel=0.01)


def test_prompts_share_the_demonstrations_alone(workers, shape):
    ask = workers["setting"].ask
    one, same, other = ask(shape, 3), ask(shape, 3), ask(shape, 3, query=1)
    assert one == same
    assert len(one.images) == one.ids.count(shape.image_token) == 3
    assert len(one.ids) == 3 * 21
    assert one.ids[:42] == other.ids[:42] and one.ids[42:] != other.ids[42:]
    pixels, changed = ([image.tobytes() for image in asked.images] for asked in (one, other))
    assert pixels[:2] == changed[:2] and pixels[2] != changed[2]
    assert not set(pixels) & {image.tobytes() for image in ask(shape, 2).images}
    assert ask(shape, 1, lead=2).ids[2] == shape.image_token


def test_our_words_are_the_tokens_that_others_get(workers, peers, shape):
    job = workers["setting"].Job("measure", ".", shape, candidates=8)
    tokenizer = workers["ours"].make_tokenizer(shape)
    for candidate in workers["setting"].candidates(job):
        assert tokenizer.encode(workers["ours"].words(candidate), add_special_tokens=False) == candidate
    assert tokenizer.convert_tokens_to_ids("<image>") == shape.image_token


def test_a_stopwatch_leaves_the_prompt_and_the_first_token_out_of_the_rate(workers, monkeypatch):
    setting = workers["setting"]
    times = iter([10.0, 10.5, 13.0, 13.1, 13.2])
    monkeypatch.setattr(setting.time, "perf_counter", lambda: next(times))
    stopwatch = setting.Stopwatch()
    for value in range(4):  # the prompt and three tokens
        stopwatch.put(value)
    assert stopwatch.first_token == pytest.approx(3.0)
    assert stopwatch.rate == pytest.approx(10.0)


def told(ours: float, openflamingo: float) -> dict[str, dict[str, float]]:
    return {"ours": {"tokens_per_s_8": ours}, "openflamingo": {"tokens_per_s_8": openflamingo}}


def test_ratios_are_of_the_same_round(peers):
    summary = peers.summarise([told(20, 10), told(2, 1), told(12, 10)])  # of medians: 1.2
    assert summary["median"] == {"ours": {"tokens_per_s_8": 12}, "openflamingo": {"tokens_per_s_8": 10}}
    assert summary["ratios"] == [
        {
            "what": "ours tokens_per_s_8 / openflamingo tokens_per_s_8",
            "median": 2.0,
            "range": [1.2, 2.0],
            "wanted": 1.5,
            "reached": True,
        }
    ]
    assert not peers.summarise([told(14, 10)])["ratios"][0]["reached"]


def test_each_round_begins_with_another_system(peers):
    assert [peers.rotated(["a", "b", "c"], n) for n in (0, 1, 3)] == [["a", "b", "c"], ["b", "c", "a"], ["a", "b", "c"]]


def test_no_system_is_timed_where_ours_and_openflamingo_differ(peers, monkeypatch):
    started = []

    def work(system, job, task=None):
        started.append((system.script, task or system.task))
        if started[-1] == ("openflamingo.py", "check"):
            raise peers.WorkerError("they differ")
        return {}

    monkeypatch.setattr(peers, "work", work)
    with pytest.raises(peers.WorkerError, match="differ"):
        peers.measure(["ours", "openflamingo"], {}, 1, lambda line: None)
    assert started == [("ours.py", "weights"), ("ours.py", "check"), ("openflamingo.py", "check")]


def test_a_worker_that_fails_says_why(peers, tmp_path, monkeypatch):
    with pytest.raises(peers.WorkerError, match="make bench-peers"):
        peers.work(peers.System(tmp_path / "python", "ours.py"), {})
    monkeypatch.setattr(peers, "HERE", tmp_path)
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "broken.py").write_text("raise SystemExit('no room')")
    (tmp_path / "peers" / "echo.py").write_text("import sys; print('noise'); print(sys.argv[1])")
    with pytest.raises(peers.WorkerError, match="no room"):
        peers.work(peers.System(peers.OURS, "broken.py"), {})
    assert peers.work(peers.System(peers.OURS, "echo.py", "default"), {"tokens": 3}) == {"tokens": 3, "task": "default"}


def test_the_plot_is_drawn(peers, tmp_path):
    metrics = {f"{name}_{n}": 1.0 + n for name in ("tokens_per_s", "first_token_s") for n in (1, 8)}
    medians = dict.fromkeys(("ours", "openflamingo", "idefics"), metrics) | {"limit": {"tokens_per_s": 9.0}}
    medians["ours"] = {**metrics, "warm_first_token_s_8": 0.5}
    report = {"machine": "a machine", "dtype": "float32", "pictures": [1, 8], "cpu": {"median": medians}}
    peers.save_plot(report, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_smoke_run_measures_ours_and_idefics(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "peers.py", "--smoke", "--out", tmp_path]
    subprocess.run([*command, "--systems", "ours,idefics"], check=True, capture_output=True)
    report = json.loads((tmp_path / "peers.json").read_text())
    assert set(report["cpu"]["median"]) == {"ours", "idefics", "limit"}
    assert report["cpu"]["median"]["ours"]["warm_first_token_s_2"] > 0
    assert ("cuda" in report) == torch.cuda.is_available()
