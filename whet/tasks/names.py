"""Chinese personal names: surnames, titles and offices, words of kinship, and where several names stand in one value."""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from whet.records import Span


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SURNAMES = (
    *"王李張劉陳楊趙黃周吳徐孫胡朱高林何郭馬羅梁宋鄭謝韓唐馮于董蕭程曹袁鄧許傅沈曾彭呂蘇盧蔣蔡賈丁魏薛葉閻余潘杜戴夏",
    *"鍾汪田任姜范方石姚譚廖鄒熊金陸郝孔白崔康毛邱秦江史顧侯邵孟龍萬段雷錢湯尹黎易常武喬賀賴龔文蹇解況滑柴虞茹麻詹湛耿",
    *"邢聶苗翟鮑桂閔蘭樊霍裴練濮葛費岑靳岳項邊卞柏卓鄔邰祝倪嚴華章俞柳鄢童茅龐紀舒屈祁甘左洪包諸梅盛刁柯管莫房裘繆宗丘",
    *_words("歐陽 司馬 上官 諸葛 皇甫 尉遲 淳于 東方 夏侯 慕容 令狐 獨孤 公孫 長孫 宇文 司徒 鮮于 端木 申屠 耶律 完顏"),
)
TITLES = _words(
    "皇帝 上 帝 今上 天子 陛下 太上皇 太上皇帝 太子 皇太子 皇太孫 世子 太后 皇太后 太皇太后 皇后 后 皇妃 貴妃 妃 嬪 "
    "親王 郡王 諸王 王 公主 駙馬 宗室 勳戚 百官 文武 文武官 文武百官 文武群臣 群臣 羣臣 廷臣 大臣 朝臣 輔臣 閣臣 臣 "
    "臣工 有司 所司 該部 禮官 言官 科道 科道官 守臣 使臣 使者 內臣 中官 官軍 將士 軍民"
)
OFFICES = _words(
    "尚書 侍郎 左侍郎 右侍郎 郎中 員外郎 主事 司務 吏部 戶部 禮部 兵部 刑部 工部 都察院 大理寺 太常寺 光祿寺 太僕寺 "
    "鴻臚寺 通政司 翰林院 詹事府 國子監 欽天監 太醫院 都御史 左都御史 右都御史 副都御史 左副都御史 右副都御史 "
    "僉都御史 左僉都御史 右僉都御史 監察御史 御史 給事中 都給事中 大學士 學士 侍讀學士 侍講學士 侍讀 侍講 修撰 編修 "
    "檢討 庶吉士 祭酒 司業 詹事 少詹事 卿 少卿 寺丞 通政使 參議 布政使 左布政使 右布政使 參政 左參政 右參政 按察使 "
    "副使 僉事 知府 同知 通判 推官 知州 知縣 縣丞 主簿 典史 教授 教諭 訓導 巡撫 總督 都督 左都督 右都督 都督同知 "
    "都督僉事 都指揮使 都指揮同知 都指揮僉事 都指揮 指揮使 指揮同知 指揮僉事 指揮 千戶 百戶 鎮撫 總兵 總兵官 副總兵 "
    "參將 遊擊將軍 遊擊 將軍 太監 少監 太師 太傅 太保 少師 少傅 少保 太子太師 太子太傅 太子太保 太子少師 太子少傅 "
    "太子少保"
)
OFFICE_LINKS = ("兼", "行在", "署", "攝")  # between two offices, or before one
KIN = _words(
    "父 母 祖 祖父 祖母 曾祖 高祖 兄 弟 昆弟 兄弟 姊 妹 子 女 兒 孫 曾孫 玄孫 妻 妾 婦 夫 夫人 伯父 叔父 叔 姑 姨 舅 "
    "甥 姪 侄 婿 壻 嗣子 岳父 父母 父子 母子 妻子 子孫 子女 姪孫 外甥 族人 家人 家屬"
)
KIN_BEFORE = _words(
    "其 伊 厥 彼 吾 我 汝 爾 朕 乃 之 故 先 亡 嫡 庶 長 次 仲 季 幼 少 元 繼 堂 從 族 外 諸 義 養 親 本生 同母 異母"
)
SEPARATORS = ("、", "，", ",", "；", ";", "／", "/", "・", "\n", "\u3000", " ")
WORDS_BETWEEN = ("及", "與", "暨", "併")
ETC = "等"
MOST_CHARS = 40  # a longer value is no row of names, and is not taken for one


@dataclass(frozen=True, slots=True)
class Names:
    """What names are made of, in the script of the text that is read."""

    known: frozenset[str] = frozenset()
    surnames: frozenset[str] = frozenset()
    """Of one or two characters."""
    offices: frozenset[str] = frozenset()


def part(
    text: str, names: Names, separators: Sequence[str], words: Sequence[str] = (), beside: Sequence[str] = ()
) -> tuple[list[Span], bool]:
    """Where the names stand that are in one text, and whether that is sure; less than two spans if it is one name.

    beside: other words of the record, which are taken off a name's front as offices are.
    """
    pieces = _between_words(text, _between(text, separators), words)
    pieces = [_without_offices(text, piece, (*names.offices, *beside)) for piece in pieces]
    if len(pieces) > 1:
        last = pieces[-1]
        if text[: last.end].endswith(ETC) and last.end - last.start > 2:
            pieces[-1] = Span(last.start, last.end - 1)
    found: list[Span] = []
    is_sure = True
    for piece in pieces:
        cuts = _readings(text[piece.start : piece.end], names)
        is_sure = is_sure and len(cuts) < 2
        ends = [piece.start + cut for cut in cuts[0]] if len(cuts) == 1 else [piece.end]
        found += [Span(start, end) for start, end in zip([piece.start, *ends], ends, strict=False)]
    return (found, is_sure) if len(found) > 1 else ([], is_sure)


def _between(text: str, separators: Sequence[str]) -> list[Span]:
    """The stretches between separators that hold something."""
    found, start, at = [], 0, 0
    while at < len(text):
        width = max((len(one) for one in separators if text.startswith(one, at)), default=0)
        if width:
            found.append(Span(start, at))
            start = at = at + width
        else:
            at += 1
    return [piece for piece in (*found, Span(start, len(text))) if piece.end > piece.start]


def _between_words(text: str, pieces: Sequence[Span], words: Sequence[str]) -> list[Span]:
    """The pieces, cut at words that have at least two characters on either side."""
    found = []
    for piece in pieces:
        start = piece.start
        at = start + 2
        while at + 2 < piece.end:
            width = max((len(one) for one in words if text.startswith(one, at)), default=0)
            if width and at + width + 2 <= piece.end:
                found.append(Span(start, at))
                start, at = at + width, at + width + 2
            else:
                at += 1
        found.append(Span(start, piece.end))
    return found


def _without_offices(text: str, piece: Span, offices: Collection[str]) -> Span:
    """A piece without the offices at its front, where two characters are left."""
    start = piece.start
    while True:
        width = max((len(one) for one in offices if text.startswith(one, start) and start + len(one) + 2 <= piece.end), default=0)
        if not width:
            return Span(start, piece.end)
        start += width


def _readings(text: str, names: Names) -> list[tuple[int, ...]]:
    """The ways to read a text as two names or more: each the ends of its names. None where it can be one name."""
    if len(text) > MOST_CHARS or len(text) in _lengths(text, names):
        return []

    @functools.cache
    def read(at: int) -> tuple[tuple[int, ...], ...]:
        if at == len(text):
            return ((),)
        ends = (at + length for length in sorted(_lengths(text[at:], names)))
        # Two readings are as many as need to be told apart.
        return tuple((end, *rest) for end in ends if end <= len(text) for rest in read(end))[:2]

    return list(read(0))


def _lengths(text: str, names: Names) -> set[int]:
    """How many characters a name at the start of a text may have. A known name is believed before any surname."""
    known = {len(name) for name in names.known if name and text.startswith(name)}
    if known:
        return known
    return {length + given for length in (1, 2) if text[:length] in names.surnames for given in (1, 2)}
