"""Plain and optimised networks are the same networks; the switch between them; exports, which take the plain form."""

import threading

import pytest
import torch
from options import CASES, IGNORED, NETWORKS, relative_error

from glowlib.networks import fast

EFFECTIVE = [(network, change) for network, change in CASES if not IGNORED[network].issuperset(change)]
IDS = [f"{network}-{change}" for network, change in EFFECTIVE]
FORMS = [name for name in fast.__all__ if name not in ("enabled", "disabled", "traced")]


@pytest.mark.parametrize(("network", "change"), EFFECTIVE, ids=IDS)
def test_both_forms_give_the_same_output(network, change, build, batch):
    """At a size that is no multiple of anything; without gradient, where the fused kernels of the CPU are used."""
    model, image = build(network, **{"qk_scale": None, **change}), batch(37, 53)  # 8 would amplify rounding
    with torch.no_grad():
        fused = model(image)
        with fast.disabled():
            plain = model(image)
    assert not torch.equal(plain, fused)
    assert relative_error(plain, fused) < 1e-5


@pytest.mark.parametrize(("network", "change"), EFFECTIVE, ids=IDS)
def test_both_forms_give_the_same_gradients(network, change, build, batch):
    """In double precision and in training mode: outputs, batch statistics, and the gradient of input and parameters."""

    def run():
        torch.manual_seed(0)  # stochastic depth
        model, image = build(network, **change).double().train(), batch(37, 53, 2).double().requires_grad_()
        output = model(image)
        (output * torch.linspace(-1, 1, 53, dtype=output.dtype)).sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()} | {"image": image.grad}
        return output.detach(), dict(model.named_buffers()), gradients

    (fused, fused_buffers, fused_gradients) = run()
    with fast.disabled():
        plain, buffers, gradients = run()
    assert relative_error(fused, plain) < 1e-9
    assert all(torch.allclose(fused_buffers[name], buffer, rtol=1e-9) for name, buffer in buffers.items())
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert (fused_gradients[name] - gradient).norm() < 1e-8 * gradient.norm() + 1e-12 * largest, name


@pytest.mark.parametrize("options", [{}, {"context_fusion": ("mul", "add"), "context_pooling": "avg"}], ids=str)
@pytest.mark.parametrize("network", NETWORKS)
def test_the_optimised_forms_are_back_after_the_plain_ones(network, options, build, batch):
    model, image = build(network, **options), batch(48, 80)
    with torch.no_grad():
        fused = model(image)
        with fast.disabled():
            plain = model(image)
        assert torch.equal(model(image), fused)
    with_gradient = model(image)  # other kernels, and S-GLOWNet's G_0 at full size
    assert with_gradient.requires_grad
    assert relative_error(with_gradient, fused) < 1e-5
    assert not torch.equal(plain, fused)
    assert relative_error(plain, fused) < 1e-5


@pytest.mark.parametrize("name", FORMS)
def test_every_optimised_form_is_used_where_enabled_and_nowhere_else(name, build, batch, monkeypatch):
    def refuse(*_):
        raise NotImplementedError(name)

    monkeypatch.setattr(fast, name, refuse)
    users = set()
    for network in NETWORKS:
        model, image = build(network), batch(16, 16)
        with torch.no_grad():
            with fast.disabled():
                assert model(image).isfinite().all()
            try:
                model(image)
            except NotImplementedError:
                users.add(network)
    assert users


def test_the_switch():
    assert fast.enabled()
    with fast.disabled():
        assert not fast.enabled()
        with fast.disabled():
            pass
        assert not fast.enabled()
    with pytest.raises(KeyError), fast.disabled():
        raise KeyError
    assert fast.enabled()


def test_threads_do_not_disturb_each_other(build, batch):
    """One thread computes the plain form while the other, at the same time, computes the optimised one."""
    model, image = build("sglownet"), batch(37, 53)
    with torch.no_grad():
        expected = {"fast": model(image)}
        with fast.disabled():
            expected["plain"] = model(image)
    together, found = threading.Barrier(2, timeout=60), {}

    @torch.no_grad()
    def compute(form):
        together.wait()
        found[form] = []
        for _ in range(3):
            together.wait()
            found[form].append(model(image))

    def compute_plain():
        with fast.disabled():
            compute("plain")

    threads = [threading.Thread(target=compute, args=("fast",)), threading.Thread(target=compute_plain)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torch.equal(*expected.values())
    for form, outputs in expected.items():
        assert len(found[form]) == 3
        assert all(torch.equal(output, outputs) for output in found[form])


def caches():
    return [value for value in vars(fast.windows).values() if hasattr(value, "cache_clear")]


@pytest.mark.parametrize("network", NETWORKS)
def test_export_before_and_after_use(network, build, batch):
    """A fixed tile by `torch.export`, from a fresh network and from a used one; nothing traced stays in a cache."""
    options = {"noise_normalisation": True, "attention_reach": 8}  # which finer grids exceed
    model, tile, other = build(network, **options), batch(32, 48), batch(32, 48, 2)[1:]
    for cached in caches():
        cached.cache_clear()
    before = torch.export.export(model, (tile,))
    assert not any(cached.cache_info().currsize for cached in caches())
    with torch.no_grad():
        fused = model(other)
        with fast.disabled():
            plain = model(other)
    after = torch.export.export(model, (tile,))
    with torch.no_grad():
        for exported in (before, after):
            assert relative_error(exported.module()(other), plain) < 1e-6
        assert torch.equal(model(other), fused)
    names = [node.target for node in before.graph.nodes if node.op == "call_function"]
    assert names == [node.target for node in after.graph.nodes if node.op == "call_function"]
    assert not any("mkldnn" in str(name) or "scaled_dot_product" in str(name) for name in names)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_tracing_takes_the_plain_form(build, batch):
    model, tile, other = build("sunet"), batch(32, 48), batch(32, 48, 2)[1:]
    with torch.no_grad():
        traced = torch.jit.trace(model, tile, check_trace=False)
        with fast.disabled():
            plain = model(other)
        assert relative_error(traced(other), plain) < 1e-6
    assert "mkldnn" not in str(traced.inlined_graph)


def test_a_graph_shows_the_optimised_form_on_request(build, batch):
    model, tile = build("gcunet"), batch(32, 48)

    def operations():
        with torch.no_grad():
            return len(torch.export.export(model, (tile,)).graph.nodes)

    plain = operations()
    with torch.no_grad():
        model(tile)
    with fast.traced():
        reduced = operations()
        with fast.disabled():
            assert operations() == plain
    assert reduced != plain
    assert operations() == plain
