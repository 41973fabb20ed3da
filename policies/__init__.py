"""Memory cores behind one interface, and the policies that use them. Imports torch and nothing else of Engram."""

from engram.policies.core import Core, CoreConfig, CoreOutput
from engram.policies.fwm import FWM
from engram.policies.lstm import LSTM
from engram.policies.policy import Inputs, Policy, PolicyOutput, make_policy

CORES: dict[str, CoreConfig] = {
    "lstm": LSTM.Config(),
    "fwm": FWM.Config(),
    # the choices of the authors' programs where they differ from the default; all read h + FWM
    "fwm-metarl": FWM.Config(query_activation="none"),
    "fwm-catbabi": FWM.Config(256, 32, query_activation="tanh-e", forget_bias=1.0, two_biases=False),
    "fwm-lm": FWM.Config(400, 32, write_scale=1.0),
    "fwm-paper": FWM.Config(write_scale=1.0, beta_offset=0.0, bias=False),
}
"""name -> its configuration; the configuration's class builds the core"""


def core_config(name: str) -> CoreConfig:
    """The configuration called `name`; ValueError naming the choices if there is none."""
    if name not in CORES:
        raise ValueError(f"no core is called {name!r}; choose from {', '.join(CORES)}")
    return CORES[name]


def make_core(name: str, input_size: int, **choices) -> Core:
    """A core by name, for inputs [T, B, input_size]; `choices` replace fields of its configuration."""
    config = core_config(name)
    if unknown := sorted(set(choices) - set(vars(config))):
        raise ValueError(f"core {name!r} has no {', '.join(unknown)}; it has {', '.join(vars(config))}")
    return type(config)(**{**vars(config), **choices}).build(input_size)


__all__ = ["CORES", "FWM", "LSTM", "Core", "CoreConfig", "CoreOutput", "Inputs", "Policy", "PolicyOutput"]
__all__ += ["core_config", "make_core", "make_policy"]
