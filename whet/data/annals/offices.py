"""Offices of the Ming, by kind, and the places that some belong to; valid and test hold some for themselves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random


def words(text: str) -> tuple[str, ...]:
    """The words of a list that is written with spaces."""
    return tuple(text.split())


PROVINCES = words("浙江 江西 福建 湖廣 山東 山西 河南 陝西 四川 廣東 廣西 雲南 貴州")
PREFECTURES = words(
    "蘇州 松江 常州 鎮江 揚州 淮安 鳳陽 廬州 徽州 寧國 池州 太平 杭州 嘉興 湖州 紹興 寧波 台州 溫州 金華 處州 南昌 "
    "吉安 贛州 袁州 福州 泉州 漳州 武昌 荊州 襄陽 長沙 濟南 兗州 青州 登州 太原 平陽 開封 河南 西安 鳳翔 延安 臨洮 "
    "成都 重慶 廣州 潮州 桂林 柳州 真定 河間 保定"
)
SUBPREFECTURES = words("徐州 滁州 和州 泰州 通州 涿州 易州 冀州 德州 濱州 沁州 汝州 鄧州 商州 秦州 綿州 郴州 澧州")
COUNTIES = words(
    "吳縣 崑山 上海 華亭 無錫 山陰 餘姚 蘭谿 永豐 廬陵 泰和 晉江 莆田 江陵 麻城 歷城 曲阜 祥符 長安 華陰 成都 南海 番禺 宛平 大興"
)
FRONTIERS = words("遼東 薊州 宣府 大同 榆林 寧夏 甘肅 固原 延綏 偏頭關 居庸關 山海關 獨石 開平 涼州 莊浪")
GUARDS = words(
    "寧夏衛 甘州衛 肅州衛 涼州衛 大同衛 宣府衛 萬全衛 開平衛 遼海衛 廣寧衛 定遼衛 金吾衛 羽林衛 府軍衛 天津衛 "
    "青州衛 威海衛 金山衛 太倉衛 福州衛 南寧衛 雲南衛 松潘衛 洮州衛 岷州衛"
)

_MINISTRIES = words("吏部 戶部 禮部 兵部 刑部 工部")
_SECTIONS = words("吏科 戶科 禮科 兵科 刑科 工科")

_HONOUR = "太師 太傅 太保 少師 少傅 少保 太子太師 太子太傅 太子太保 太子少師 太子少傅 太子少保 特進光祿大夫 柱國"
_COURT = (
    "大理寺卿 大理寺左少卿 大理寺右少卿 大理寺左寺丞 大理寺右寺丞 大理寺寺正 大理寺評事 太常寺卿 太常寺少卿 "
    "太常寺寺丞 太常寺博士 光祿寺卿 光祿寺少卿 光祿寺寺丞 太僕寺卿 太僕寺少卿 太僕寺寺丞 鴻臚寺卿 鴻臚寺左少卿 "
    "鴻臚寺右寺丞 鴻臚寺序班 通政使 左通政 右通政 通政司左參議 通政司右參議 詹事府詹事 詹事府少詹事 詹事府府丞 "
    "尚寶司卿 尚寶司少卿 尚寶司司丞 中書舍人 行人司司正 行人司行人 順天府府尹 順天府府丞 應天府府尹 應天府治中 "
    "宗人府經歷 欽天監監正 欽天監監副 欽天監五官靈臺郎 太醫院院使 太醫院院判 上林苑監左監正 營膳所所正 會同館大使 "
    "寶鈔提舉司提舉"
)
_CENSOR = "左都御史 右都御史 左副都御史 右副都御史 左僉都御史 右僉都御史 監察御史 都察院經歷 都察院都事"
_ACADEMY = (
    "翰林院學士 翰林院侍讀學士 翰林院侍講學士 翰林院侍讀 翰林院侍講 翰林院修撰 翰林院編修 翰林院檢討 翰林院待詔 "
    "翰林院典籍 翰林院五經博士 庶吉士 左春坊大學士 左春坊左庶子 右春坊右庶子 左春坊左諭德 右春坊右諭德 左春坊左中允 "
    "右春坊右中允 左春坊左贊善 右春坊右贊善 司經局洗馬 國子監祭酒 國子監司業 國子監監丞 國子監博士 國子監助教 "
    "國子監學正 華蓋殿大學士 謹身殿大學士 文華殿大學士 武英殿大學士 文淵閣大學士 東閣大學士"
)
_ARMY = (
    "左都督 右都督 都督同知 都督僉事 中軍都督府左都督 前軍都督府右都督 後軍都督府都督同知 左軍都督府都督僉事 "
    "右軍都督府經歷 總兵官 副總兵 左副總兵 右副總兵 左參將 右參將 遊擊將軍 守備都指揮 都指揮使 都指揮同知 "
    "都指揮僉事 署都指揮僉事 指揮使 指揮同知 指揮僉事 正千戶 副千戶 百戶 鎮撫 征虜前將軍 征虜副將軍 鎮朔大將軍 "
    "征蠻將軍 征西前將軍 平羌將軍 平蠻將軍 征夷將軍 征南將軍 錦衣衛指揮使 錦衣衛指揮同知 錦衣衛千戶 錦衣衛百戶 "
    "神機營把總 五軍營坐營官 三千營提督 備倭都指揮 漕運總兵官 宣慰使 宣撫使 安撫使 長官司長官 千總 把總 掌衛指揮 "
    "守備 駙馬都尉"
)
_NOBLES = (
    "英國公 成國公 定國公 黔國公 魏國公 保國公 陽武侯 武安侯 安遠侯 泰寧侯 永康侯 保定侯 隆平侯 鎮遠侯 恭順侯 "
    "寧陽侯 豐城侯 靖安伯 新建伯 忠勇伯 崇信伯 平江伯 襄城伯 興安伯 建平伯 遂安伯 應城伯 廣寧伯 彭城伯 懷寧伯 "
    "武進伯"
)
_INNER = (
    "太監 少監 監丞 奉御 司禮監太監 御馬監太監 內官監太監 尚膳監少監 御用監太監 神宮監太監 都知監少監 司設監太監 尚衣監左少監"
)


def _joined(places: Iterable[str], offices: str) -> tuple[str, ...]:
    return tuple(place + office for place in places for office in words(offices))


OFFICES: Mapping[str, tuple[str, ...]] = {
    "honour": words(_HONOUR),
    "ministry": _joined(_MINISTRIES, "尚書 左侍郎 右侍郎 郎中 員外郎 主事"),
    "court": words(_COURT),
    "censor": (
        *words(_CENSOR), *_joined(_SECTIONS, "都給事中 左給事中 右給事中 給事中"), *_joined(PROVINCES, "道監察御史"),
        *(f"巡按{place}監察御史" for place in PROVINCES), *(f"巡撫{place}右副都御史" for place in PROVINCES),
    ),
    "academy": words(_ACADEMY),
    "province": _joined(
        PROVINCES,
        "左布政使 右布政使 布政使司左參政 布政使司右參政 布政使司左參議 布政使司右參議 按察使 按察使司副使 "
        "按察使司僉事 提學副使 鹽運使",
    ),
    "local": (
        *_joined(PREFECTURES, "府知府 府同知 府推官"), *_joined(SUBPREFECTURES, "知州 同知"),
        *_joined(COUNTIES, "知縣 儒學教諭"),
    ),
    "army": (
        *words(_ARMY), *_joined(FRONTIERS, "總兵官 副總兵 參將"), *_joined(GUARDS, "指揮使 指揮僉事"),
        *_joined(PROVINCES, "都指揮使 都指揮同知"),
    ),
    "noble": words(_NOBLES),
    "inner": words(_INNER),
}  # fmt: skip
GROUPS: Mapping[str, tuple[str, ...]] = {
    "high": ("honour", "honour", "ministry", "court", "noble", "academy"),
    "civil": ("ministry", "ministry", "court", "censor", "academy", "province"),
    "any": ("honour", "ministry", "court", "censor", "academy", "province", "local", "army", "noble"),
    "field": ("province", "province", "local", "censor"),
    "war": ("army", "army", "army", "noble"),
    "envoy": ("court", "ministry", "censor", "inner", "noble"),
}
"""What a template may ask for: kinds of office, a kind named twice being twice as likely."""

# 行在 stood before the offices in Peking while Nanking was the capital, 南京 before those left behind after 1441.
PREFIXED = frozenset(OFFICES["ministry"]) | {
    "監察御史",
    "右都御史",
    "太常寺卿",
    "光祿寺卿",
    "大理寺卿",
    "太僕寺卿",
    "通政使",
    "翰林院侍讀",
    "國子監祭酒",
}
ERAS_OF_PREFIX = {
    "行在": frozenset({"永樂", "洪熙", "宣德"}),
    "南京": frozenset({"正統", "景泰", "天順", "成化", "弘治", "正德", "嘉靖", "萬曆"}),
}
ALWAYS_SEEN = frozenset(words(_HONOUR)) | {"監察御史", "總兵官", "都督僉事", "指揮使", "太監"}
HELD_OUT_SHARE = 0.12  # how often valid and test draw an office that train never has; place names make up the rest to ~15 %


@dataclass(frozen=True)
class OfficePool:
    """The offices of one split: those that all splits share, and those that it holds for itself (none in train)."""

    shared: Mapping[str, tuple[str, ...]]
    held: Mapping[str, tuple[str, ...]]

    def draw(self, random: Random, group: str, era: str = "") -> str:
        """An office of a kind or of a group of kinds; `era` decides which prefix it may take."""
        kind = random.choice(GROUPS.get(group, (group,)))
        held = self.held.get(kind)
        office = random.choice(held if held and random.random() < HELD_OUT_SHARE else self.shared[kind])
        for prefix, eras in ERAS_OF_PREFIX.items():
            if era in eras and office in PREFIXED and random.random() < 0.35:
                return prefix + office
        if kind == "ministry" and office.endswith(("尚書", "左侍郎")) and random.random() < 0.12:
            return random.choice(self.shared["honour"]) + "兼" + office
        return office


def split_offices(random: Random) -> tuple[OfficePool, OfficePool, OfficePool]:
    """Pools of train, valid and test: a sixth of each kind is held out, half for valid, half for test.

    An office that is the tail of a shared one still counts as held out if it is another string; that is what
    "unseen" means everywhere in this package: the exact string stands as an office nowhere in train.
    """
    shared, valid, test = {}, {}, {}
    for kind, offices in OFFICES.items():
        movable = [office for office in offices if office not in ALWAYS_SEEN]
        random.shuffle(movable)
        count = len(movable) // 12
        valid[kind], test[kind] = tuple(movable[:count]), tuple(movable[count : 2 * count])
        out = {*valid[kind], *test[kind]}
        shared[kind] = tuple(office for office in offices if office not in out)
    return OfficePool(shared, {}), OfficePool(shared, valid), OfficePool(shared, test)
