"""The hand-written gradients of the Fourier transforms."""

import pytest
import torch

from khala.codec.fourier import irfft, rfft


def test_gradients_equal_those_of_torch() -> None:
    """A wrong gradient here would train a codec that sounds wrong without any error."""
    generator = torch.Generator().manual_seed(0)
    signal = torch.randn(3, 16, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 9, generator=generator, dtype=torch.complex128)
    for transform, reference, start, probe in (
        (rfft, torch.fft.rfft, signal, weight),
        (irfft, torch.fft.irfft, weight, signal),
    ):
        a, b = start.clone().requires_grad_(), start.clone().requires_grad_()
        torch.testing.assert_close(transform(a), reference(b))
        (transform(a) * probe).abs().square().sum().backward()
        (reference(b) * probe).abs().square().sum().backward()
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("length", [2, 3, 15, 31, 78, 127, 1418])
def test_any_length_has_its_gradient(length: int) -> None:
    """The adversary's windows are no powers of two: a wrong gradient there is a wrong lesson."""
    generator = torch.Generator().manual_seed(length)
    signal = torch.randn(3, length, generator=generator, dtype=torch.float64)
    bins = length // 2 + 1
    probe = torch.randn(3, bins, generator=generator, dtype=torch.complex128)
    a, b = signal.clone().requires_grad_(), signal.clone().requires_grad_()
    torch.testing.assert_close(rfft(a), torch.fft.rfft(b))
    (rfft(a) * probe).abs().square().sum().backward()
    (torch.fft.rfft(b) * probe).abs().square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
