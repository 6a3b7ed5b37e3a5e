"""Arrays of every accepted shape, for hypothesis."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda side: st.sampled_from([side, (*side, 1), (*side, 2), (*side, 3), (*side, 4)])
)


@st.composite
def integer_pictures(draw):
    return draw(hnp.arrays(draw(st.sampled_from([np.uint8, np.uint16])), draw(shapes)))
