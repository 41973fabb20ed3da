"""Memory cores behind one interface, and the policies that use them. Of Engram, `kernels` alone is imported."""

from engram.policies.convlstm import ConvLSTM
from engram.policies.core import Core, CoreConfig, CoreOutput
from engram.policies.fwm import FWM
from engram.policies.fwp import DeltaDeltaNet, DeltaMLP, DeltaNet, LinearTransformer
from engram.policies.fwp_recurrent import RDN, DeltaLSTM, DeltaRNN
from engram.policies.gru import GRU
from engram.policies.jbfw import JBFW
from engram.policies.lstm import LSTM
from engram.policies.mlp import MLP
from engram.policies.mnm import MNM
from engram.policies.plastic import Plastic
from engram.policies.policy import Inputs, Policy, PolicyOutput, make_policy
from engram.policies.rmc import RMC
from engram.policies.stm import STM

CORES: dict[str, CoreConfig] = {
    # to compare with
    "mlp": MLP.Config(),
    "gru": GRU.Config(),
    "lstm": LSTM.Config(),
    "convlstm": ConvLSTM.Config(),
    "jbfw": JBFW.Config(),
    "plastic": Plastic.Config(),
    "plastic-homogeneous": Plastic.Config(alpha="scalar"),
    "plastic-rnn": Plastic.Config(alpha="none"),
    # the batched program of 2019: clipped traces, without and with neuromodulation
    "plastic-clip": Plastic.Config(rule="clip"),
    "plastic-modplast": Plastic.Config(rule="clip", modulation="rate"),
    "plastic-modul": Plastic.Config(rule="clip", modulation="trace"),
    # Schlag et al. 2021; the choices of their programs where they differ from the default, all reading h + FWM
    "fwm": FWM.Config(),
    "fwm-metarl": FWM.Config(query_activation="none"),
    "fwm-catbabi": FWM.Config(256, 32, query_activation="tanh-e", forget_bias=1.0, two_biases=False),
    "fwm-lm": FWM.Config(400, 32, write_scale=1.0),
    "fwm-paper": FWM.Config(write_scale=1.0, beta_offset=0.0, bias=False),
    # Munkhdalai et al. 2019
    "mnm": MNM.Config(),
    "mnm-p": MNM.Config(),
    "mnm-g": MNM.Config(rule="gradient"),
    # Santoro et al. 2018
    "rmc": RMC.Config(),
    # Irie et al. 2021
    "linear-transformer": LinearTransformer.Config(),
    "delta-net": DeltaNet.Config(),
    "delta-rnn": DeltaRNN.Config(),
    "delta-lstm": DeltaLSTM.Config(),
    "delta-mlp": DeltaMLP.Config(),
    "delta-delta-net": DeltaDeltaNet.Config(),
    "rdn": RDN.Config(),
    # Le et al. 2020; the second is their Atari agent
    "stm": STM.Config(),
    "stm-rl": STM.Config(carried=False, sam_norm="row", output_norm=True),
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
    if input_size < 1:
        raise ValueError(f"core {name!r} reads inputs of at least one number, got input_size={input_size}")
    if unknown := sorted(set(choices) - set(vars(config))):
        raise ValueError(f"core {name!r} has no {', '.join(unknown)}; it has {', '.join(vars(config))}")
    return type(config)(**{**vars(config), **choices}).build(input_size)


__all__ = [
    "CORES",
    "FWM",
    "GRU",
    "JBFW",
    "LSTM",
    "MLP",
    "MNM",
    "RDN",
    "RMC",
    "STM",
    "ConvLSTM",
    "Core",
    "CoreConfig",
    "CoreOutput",
    "DeltaDeltaNet",
    "DeltaLSTM",
    "DeltaMLP",
    "DeltaNet",
    "DeltaRNN",
    "Inputs",
    "LinearTransformer",
    "Plastic",
    "Policy",
    "PolicyOutput",
    "core_config",
    "make_core",
    "make_policy",
]
