"""Personal names of the demo annals: real surnames, given-name characters; each name is used by one split alone."""

from collections.abc import Collection
from random import Random

from whet.data.annals.offices import words

SEED_PERSON = "蹇義"
"""The person of the sentence that the specialist is shown afterwards; never drawn, and neither is the surname."""

SURNAMES = (
    "王李張劉陳楊趙黃周吳徐孫胡朱高林何郭馬羅梁宋鄭謝韓唐馮于董蕭程曹袁鄧許傅沈曾彭呂蘇盧蔣蔡賈丁魏薛葉閻余潘杜戴夏"
    "鍾汪田任姜范方石姚譚廖鄒熊金陸郝孔白崔康毛邱秦江史顧侯邵孟龍萬段雷錢湯尹黎易常武喬賀賴龔文"
)
RARE_SURNAMES = "況滑柴虞儲茹郁麻芮詹湛耿邢滕聶鄺仝亓撒冉暴鈕逯卜苗翟秋鮑桂酈粟宓解隗戚閔蘭樊霍裴練濮葛費岑薄靳岳項"
DOUBLE_SURNAMES = ("歐陽", "司馬", "上官", "諸葛", "皇甫", "尉遲", "淳于", "東方", "夏侯", "慕容", "令狐", "獨孤")

# What templates write after a name never begins with one of these (see _NEVER_GIVEN): where a name ends is no guess.
GIVEN = (
    "義榮福濙士奇溥驥謙原吉佐英勉瑛琦誠敬信忠恕寬毅剛敏達通亮俊傑雄威猛勝彪豹麟鳳鸞鶴鵬翰翔羽翼儀禮智仁德賢良善純粹精"
    "英華芳茂盛昌隆興泰安寧靜清澄潔淵源深洪浩瀚濟澤潤沛潛滋溫涵淳漢泓淮渭涇洵濂瀾鴻鈞銘鑑鎔鏞鉞鐸錦鎧錫鉉銓鍾鏜鐘鑛鈺"
    "玉珪璋琮瑄瑜瑾璉璘珍珣琳瑞璽玘璧瓚琬琰環珙珩瑤琛瓊璞理琚松柏桂棟楷模樞機權相梓楨榘槐桓彬樸檜材森楫桐椿榆林日旦昇"
    "昂明昭晟晃晏曙曜暉晦暄景晴智曄旭昱昊星辰輝煌煥炳燦炯燁焞烜熙燾煜熹思恩慶應憲愷恂恪慎惟悅懋惠慈慧憬懷恢志愈山岳崇"
    "嵩峻峰岱巖岡崑嶽嶸崙巍屹川河海波瀛湖池漳潮江泉溪文學詩書經綸紀緒績縉紳維綱繹純絢紹繼纘祖宗孫昆祥禎祐祚祿禧禔祺禋"
    "廷朝宸邦國家世時春夏秋冬雲雷霖霄震霆霽露雪霜宗宏宣容宥富宇宙守定宜實寶賓憲政教敦敷敞效數新勳勤勵動助孜孚存孟"
    "季伯仲"
    "叔子公卿元亨利貞乾坤天一中立本初正大萬百千從必永常恆久延長壽彭年道遠進逵遜遇運遵邁遴邃選迪述循復徵徹衡術衍衢"
    "象龍虎"
    "驤駿騏驄馴驊熊貔麒鯤鯨龜蛟"
)
RARE_GIVEN = "瑺紞璟暹旻燧愨璿璵頤頊顒顥騄鼐鼒勛霱靉韡韞鷟鷃鏊鐩鏓鏌瓘瓛瑢瓏衎衙筠籛簠綖緷縡翀翮翱翥訥諤諟讜㴶㫤䌹𠮷𤩰𨱑"

# Written otherwise than a name: the first character of a verb, or a word of the templates when joined with a surname.
_NEVER_GIVEN = frozenset(
    "言奏卒等為率奉使至以上及并與請下往詣充掌督致疏進陞有自同會帥統領將曰病疾坐劾入出還齎清守從動助相數效選遇運述教"
)
_NO_NAMES = frozenset(
    words(
        "安南 安寧 江南 江西 江東 湖廣 河南 山東 高麗 常州 蘇州 徐州 梁州 鄧州 許州 程朱 文武 文廟 文淵 文華 武英 武昌 "
        "武定 武安 高郵 易州 史書 方山 石城 康寧 馬文 萬全 萬歲 萬年 萬國 常山 常朝 黃河 江淮 江漢 金山 金川 金華 王府 "
        "王國 王宮 白河 白虎 石州 石河 龍虎 龍江 雷州 雷電 唐世 宋元 宋世 任從 尹公 丁憂 夏秋 秋冬 文學 文書 康熙 史學 "
        "王公 王子 王孫 公孫 侯伯 孫子 段公 方正 方玉 方國 林木 田公 常年 金玉"
    )
)
_POOL = tuple(sorted(set(GIVEN) - _NEVER_GIVEN))
GIVEN_CHARACTERS = frozenset(_POOL) | frozenset(RARE_GIVEN)


class Names:
    """Draws names that nobody else has drawn before from the same `taken` set."""

    def __init__(self, random: Random, taken: set[str]) -> None:
        self._random, self._taken = random, taken

    def draw(self, beside: Collection[str] = ()) -> str:
        """A new name; `beside` are further strings that it must not be."""
        while True:
            name = self._surname() + self._given()
            if name not in self._taken and name not in _NO_NAMES and name not in beside and name != SEED_PERSON:
                self._taken.add(name)
                return name

    def _surname(self) -> str:
        dice = self._random.random()
        if dice < 0.03:
            return self._random.choice(DOUBLE_SURNAMES)
        return self._random.choice(RARE_SURNAMES if dice < 0.2 else SURNAMES)

    def _given(self) -> str:
        length = 1 if self._random.random() < 0.45 else 2
        return "".join(self._random.choice(RARE_GIVEN if self._random.random() < 0.06 else _POOL) for _ in range(length))
