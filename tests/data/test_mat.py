"""Reading MATLAB files: a file that scipy wrote, and what can be wrong with one."""

from __future__ import annotations

import base64
import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from semseg.core.checks import FileError
from semseg.data.mat import read_mat
from tests.data.matlab import save_mat

COMPRESSED = zlib.decompress(
    base64.b85decode(
        "c-r%I4DoSvQZUssQ1EpO(M`+DNmU5QNi0drFUqx2D9A6)tk6+#E=o--Nlj76&$ChpPApOI%P&(fGE^`$vof}"
        "@GBQ;#GB7e@AOkRZ`tk#*6+m1u=W%jEg2llT2M(|;v22*p$;cG3u*OY=N2r+J^PDEz=17T_1&`7k-b{&~HGN"
        "XVl$lXHrVWY~rncs$>s2<Y7~AtJJ(?3SY1TacAmM;1Q9M(ayFN00WMpgk+mrFlSn=k0hS2=RCG&Xus~sDJwf"
        "Gq2-#Gqa{_rB*X_N4>ct%fq<}e0B@td)8BF?0`8BOO*GdEV|7S=uz&&Tqo^_?E0Pq`%n!;f}pBanM7;O^yMN"
        "HSA+)^JJT0M}DvM?+<1Zs*E0FD>;6YY#9m%fC4|<%c`FLG1z#Cu0tvrrmvPQ$YF+;Q9-|`Wce)*f<heKS?&u"
        "ko0Q)Vb|%o(sExXt4@IJa*3G-UNI&eVF?H6(}wFafa(*2>+{)cFl9;D6b^>UPS2A(3>p`iQvnDSj@t"
    )
)
PLAIN = zlib.decompress(
    base64.b85decode(
        "c-oy&-AcnS6i%{iI0Px)czYf|rK@a=-q>yzBCJwaUm#nvQRte{M&0A>QhXYH1CzDYQ0o*Agp+e}&iB&>el+t"
        "ZFub-Q@T03$l5z-BCRZZgxUdyPvb%(7&Y9#fh|GmKlkgy(z!|_`<lc;3X9$k%jL<&<-v?(Zy<miTDxauBs;6"
        "#MW8>)FU9?P#!=0k@s;{{x;xUU^p75dupY!#GXOhW8WMyZnOss{T33FbkH`UYpd-TPR8~nuJN7ek;nC~6YtD"
        "|4_%Xquh`{9v&VsO^`VC=Vl$P(Ao)o;P=7`UY7?qEu~r7!OnUrk-scU|7!{ZaIs#Jttt#k+UN`@GD^@|yZiT"
        "lCfbbUkAWo(617tDRR&KL4L>;Lsm&D3W|9Emg6_5`6$1U_VO"
    )
)
"""Files of scipy 1.17.1, ``savemat`` with and without ``do_compression``."""


@pytest.mark.parametrize("content", [COMPRESSED, PLAIN], ids=["compressed", "plain"])
def test_a_file_of_scipy(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.mat"
    file.write_bytes(content)
    segmentation = read_mat(file, "GTcls", "Segmentation")
    assert segmentation.dtype == np.uint8
    assert segmentation.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read_mat(file, "wide").tolist() == [[1, 300], [70000, 4]]
    assert read_mat(file, "LabelMap").tolist() == [[458, 2, 0]]
    assert read_mat(file, "LabelMap").dtype == np.uint16
    for wanted in (("other",), ("text",), ("GTcls", "other"), ("wide", "field")):
        dotted = ".".join(wanted)
        with pytest.raises(FileError, match=f"no numbers named {dotted}; it has GTcls, wide"):
            read_mat(file, *wanted)


@pytest.mark.parametrize("field", [None, "Segmentation"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
def test_the_writer_of_the_tests(dtype: str, field: str | None, tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    save_mat(tmp_path / "a.mat", "x", array, field)
    read = read_mat(tmp_path / "a.mat", "x", field)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


def test_damage_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.mat"
    with pytest.raises(FileError, match=r"a\.mat cannot be read: No such file"):
        read_mat(file, "x")
    file.write_bytes(b"GIF89a")
    with pytest.raises(FileError, match=r"a\.mat is not a MATLAB file of version 5 to 7; copy it"):
        read_mat(file, "x")
    file.write_bytes(b"MATLAB 7.3 MAT-file".ljust(200))
    with pytest.raises(FileError, match=r"a\.mat is a MATLAB 7\.3 file \(HDF5\); save it with -v7"):
        read_mat(file, "x")
    for length in range(140, len(PLAIN), 40):
        for content in (PLAIN, COMPRESSED):
            file.write_bytes(content[:length])
            with pytest.raises(FileError, match=re.escape(str(file))):
                read_mat(file, "text")
