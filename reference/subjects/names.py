"""The words that strangers use for what torch calls gamma, eps, training...: a table, and how a name is read by it.

A role is what a name stands for, in this project's words. Knows words alone: no layer, no object.
"""

import re
from collections.abc import Iterable, Sequence


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# What each of torch's keywords is called in constructors, the most telling first; compared without case and underscores.
_FEATURES = _words("""
    numfeatures numfeature nfeatures nbfeatures features nfeat featuredim featuresize numchannels nchannels nchannel channels
    inchannels inputchannels outchannels dim dims ndim inputdim indim size inputsize insize infeatures hiddensize hiddendim
    hidden dmodel modeldim embdim embeddim embeddingdim nembd units nunits numunits width numneurons nneurons neurons nin nout
    inputshape shape d n c ch
""")
KEYWORDS: dict[str, tuple[str, ...]] = {
    "num_groups": _words("numgroups ngroups nbgroups groups numgroup group g"),
    "num_channels": _FEATURES,
    "num_features": _FEATURES,
    "normalized_shape": _words("normalizedshape normalisedshape normshape") + _FEATURES,
    "eps": _words("eps epsilon epsi epsvalue epsilonvalue varianceepsilon layernormepsilon stability e"),
    "momentum": _words("momentum decay momentumdecay decayrate averagedecay moment mom alpha rho m"),
    "affine": _words("affine elementwiseaffine channelwiseaffine learnable useaffine withaffine isaffine"),
    "elementwise_affine": _words("elementwiseaffine affine learnable useaffine"),
    "bias": _words("bias usebias withbias hasbias"),
    "track_running_stats": _words("trackrunningstats trackstats trackrunning"),
}
# What a constructor or a function may ask for besides torch's keywords.
PARAMETERS: dict[str, tuple[str, ...]] = {
    "gamma": _words("gamma gammas initgamma gammainit scale weight weights gain g w"),
    "beta": _words("beta betas initbeta betainit shift bias offset b"),
    "running_mean": _words("runningmean movingmean runmean runningmu popmean meanrunning globalmean"),
    "running_var": _words("runningvar movingvar runvar runningvariance movingvariance popvar varrunning globalvar"),
}
# The names of a flag, and whether it is true in training.
MODES: dict[str, bool] = dict.fromkeys(
    _words("training istraining train istrain trainflg trainflag trainingmode trainmode intraining trainable"), True
) | dict.fromkeys(
    _words("eval iseval evaluation evalmode inference isinference test istest testing testmode predict"), False
)
MODE_WORDS = ("mode", "phase")  # the names of a mode that is a word
EVAL_WORDS = _words("eval test inference val valid predict")  # what such a mode is set to
FORWARDS = _words("""
    forward __call__ call forward_pass forwardpass fprop forward_prop forwardprop forward_propagation feed_forward feedforward
    propagate apply fwd normalize f run _forward
""")
BACKWARDS = _words("""
    backward backprop backward_pass backwardpass bprop back_prop backpropagate back_propagation backpropagation backward_prop
    backwardprop backward_propagation backwards back bwd grad gradient gradients calc_gradient b _backward
""")
BUILDS = _words(
    "build setup initialize init_params init_weights initialise"
)  # methods that are told the shape of x first
CACHES = _words("cache ctx context saved memory caches")  # the arguments of a backward that is given what forward kept
FLUSHES = _words(
    "zero_grad zero_grads zerograd zero_gradients flush_gradients clear_grads clear_gradients cleargrads reset_grad"
)
RATES = _words("lr learningrate learnrate eta stepsize lrate")  # of a backward that takes a step: given 0

_COUNTED = frozenset(
    _words("feature features channel channels dim dims neuron neurons unit units hidden embed embedding")
)
_COUNTING = frozenset(_words("num n nb number of size in input out output count cnt model"))
_GAMMA = frozenset(_words("gamma gammas weight weights scale scales scaler scaling gain gains g w bw"))
_BETA = frozenset(_words("beta betas bias biases shift shifts offset intercept b bb"))
_GRADIENT = frozenset(_words("d grad grads gradient gradients delta deltas dl dj g"))
_RUNNING = frozenset(
    _words(
        "running run moving mov pop population global overall ema avg average averaged rolling exp cumulative inference test r"
    )
)
_MEAN = frozenset(_words("mean means mu m ave"))
_VAR = frozenset(_words("var vars variance v sigma2"))
# Words in a name that tell nothing of its role.
_NOISE = frozenset(
    _words("self param params parameter p data value val init layer norm bn ln gn rms np arr array of wrt loss")
)


def flat(name: str) -> str:
    """A name without case and underscores."""
    return name.replace("_", "").lower()


def is_feature_count(name: str) -> bool:
    """Whether a name says how many features there are, in whatever order of its words, as "features_num"."""
    parts = set(words(name))
    return bool(parts & _COUNTED) and parts <= _COUNTED | _COUNTING


def quoted_in(source: str, candidates: Iterable[str]) -> str:
    """The first of some words that stands in quotes in a program's text, "" if none does."""
    return next((word for word in candidates if f'"{word}"' in source or f"'{word}'" in source), "")


def words(name: str) -> list[str]:
    """ "gradGamma_x2" -> ["grad", "gamma", "x2"]: a name in its words, in lower case."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return [word for word in spaced.lower().split("_") if word]


def role_of(names: Sequence[str]) -> str | None:
    """What a value stands for, by the names on the way to it, as ("grads", "W"): a role, or None if they do not tell.

    "gamma", "beta", "dgamma", "dbeta", "running_mean" or "running_var". An outer name only tells that it is a gradient.
    """
    *outer, own = names
    inside = {word for name in outer for word in words(name)}
    if inside & {*CACHES, "intermediate", "vars", "tape"}:  # what a pass keeps for the next is no place to set
        return None
    if own in ("grad", "gradient", "g_") and outer:  # an object with its own gradient, as gamma.grad
        return _gradient_of(role_of(outer))
    if own in ("data", "value", "val", "array", "w_", "numpy", "values", "_data", "_value") and outer:
        return role_of(outer)
    is_gradient = bool(inside & (_GRADIENT - {"g", "d"}))
    parts = [word for word in words(own) if word not in _NOISE]
    if flat(own).startswith("dld"):  # "dLdBW"
        return _gradient_of(_parameter([flat(own)[3:]]))
    running = _running(parts)
    if running:
        return running
    found = _parameter(parts)
    if found is None and len(parts) > 1:
        without = [word for word in parts if word not in _GRADIENT]
        if not without and parts[-1] == "g":  # "d_g"
            without = ["g"]
        if len(without) < len(parts):
            found, is_gradient = _parameter(without), True
    if found is None and len(parts) == 1 and parts[0].startswith("d"):  # "dgamma", "dW", "db"
        found, is_gradient = _parameter([parts[0][1:]]), True
    if found is None and len(parts) == 1:
        for affix in ("grad", "delta"):
            stem = parts[0].removeprefix(affix).removesuffix(affix)
            if stem != parts[0] and _parameter([stem]):
                found, is_gradient = _parameter([stem]), True
    return _gradient_of(found) if is_gradient else found


def _gradient_of(role: str | None) -> str | None:
    return f"d{role}" if role in ("gamma", "beta") else None


def _running(parts: Iterable[str]) -> str | None:
    found = set(parts)
    if not found & _RUNNING:
        joined = "".join(parts)
        for role, spelled in PARAMETERS.items():
            if role.startswith("running") and joined in spelled:
                return role
        return None
    if found & _MEAN or found in ({"moving", "average"}, {"moving", "avg"}):
        return "running_mean"
    return "running_var" if found & _VAR else None


def _parameter(parts: Sequence[str]) -> str | None:
    if len(parts) != 1:
        return None
    if parts[0] in _GAMMA:
        return "gamma"
    return "beta" if parts[0] in _BETA else None


def rank_of(name: str, role: str) -> int:
    """How telling a name is for its role: 0 for our own word, then in the order of the table."""
    if name == role:
        return 0
    table = PARAMETERS.get(role.removeprefix("d") if role in ("dgamma", "dbeta") else role, ())
    near = [place for place, word in enumerate(table) if word in flat(name)]
    return 1 + min(near, default=len(table))
