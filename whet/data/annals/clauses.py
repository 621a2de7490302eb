"""Clause templates of the demo annals, by event and split, and the pieces that fill them.

How the splits are kept honest: a template stands in exactly one of TRAIN, VALID and TEST, and templates of two splits
are other sentences, not one sentence with a word changed. What the splits share is what real annals share: single
words (卒, 奏, 率, 賑, 遣), the openings that give the date, short closing formulas (從之), asides, places, realms and
titles without a name. So a copied template scores nothing on test; knowing how such a clause is built does.

Slots: {A:kind} an office and its holder; {O:kind} and {P} the two apart, where words stand between them or a person
has no office; {L:kind} two or three {A} in a row; {N} two or three {P} in a row; `!Event` gives a slot another event
than its template has. {o:kind} is an office that belongs to nobody (a new post, a vacancy): never tagged. {num} is a
count. All others are in FILLERS. An office is gold only when it stands before its person with at most four characters
between.
"""

from collections.abc import Mapping

from whet.data.annals.offices import COUNTIES, FRONTIERS, GUARDS, PREFECTURES, PROVINCES, SUBPREFECTURES, words

EVENTS = ("Appointment", "Military", "Diplomacy", "Disaster", "Death", "Other")

SHORT_DEATH = "{A:high}卒。"
"""The shortest notice there is, in train only; it is what the seed sentence looks like."""

Templates = Mapping[str, tuple[str, ...]]
"""Event to clauses; the key "" holds clauses without any official."""

TRAIN: Templates = {
    "Appointment": (
        "陞{A:civil}為{o:civil}。", "陞{A:civil}為{o:civil}，{A:civil}為{o:civil}。", "命{A:any}為{o:any}。",
        "以{A:civil}為{o:civil}。", "以{P}為{o:any}。", "擢{A:civil}為{o:province}。",
        "改{A:civil}為{o:civil}，仍支舊俸。", "調{A:province}於{prov}。", "命{A:high}兼{o:honour}。",
        "復{P}為{o:civil}，以丁憂服闋也。", "陞{L:civil}俱為{o:province}。", "{o:civil}缺，命{P}代之。",
        "吏部言{o:province}員缺，以{A:civil}補之。", "擢進士{N}為{o:censor}。", "授進士{N}俱{o:censor}。",
        "加{A:high}{o:honour}，賜敕獎諭。", "降{A:civil}為{o:local}，以不職故也。", "起復{A:civil}視事如故。",
        "命{A:inner}提督{fu}織造。", "封{A:army}為{o:noble}，食祿{num}石。", "令{A:noble}掌{o:army}印。",
        "{A:civil}九年考滿，陞{o:civil}。", "以皇太子出閣，命{A:academy}、{A:academy}等為講讀官。",
        "敕{A:ministry}巡撫{prov}等處。", "以{P}為{o:civil}，{P}為{o:civil}。", "罷{A:civil}為民，以{P}代之。",
        "官{P}為{o:army}，錄其父功也。", "薦舉{P}至，除{o:academy}。", "以{P}嗣{o:noble}。",
        "{O:civil}致仕{P}起為{o:ministry}。", "命{O:army}充總兵官{P}鎮守{bian}。",
    ),
    "Death": (
        "{A:any}卒。", "{A:high}卒，賜祭葬如例。", "{O:high}致仕{P}卒。", "{A:army}卒於軍。",
        "{A:noble}薨，輟視朝{n}日。", "故{A:civil}卒於家，命有司治葬。", "{A:high}以疾卒，遣官諭祭。",
        "{A:civil}卒於官，貧不能歸葬，詔給驛舟。", "{A:high}薨，追封{o:noble}，謚{shi}。",
        "{A:ministry}卒，贈{o:honour}。", "{A:any}卒，年{age}。", "{A:war}病卒，命其子襲職。",
        "聞{A:high}卒，上悼惜久之。", "{A:army}戰歿於{bian}，錄其子為{o:army}。",
        "遣{A:ministry!Other}諭祭故{A:high}。", "{A:academy}卒。{P}，{xian}人，由進士歷官{o:academy}。",
        "{A:inner}卒，賜葬祭。", "{A:civil}、{A:war}相繼卒。", "{P}卒，贈{o:court}，謚{shi}。", "處士{P}卒。",
    ),
    "Military": (
        "命{A:war}率師討{rebel}。", "{A:army}率兵至{bian}，與虜戰，敗之。", "{A:war}等奏斬首{num}級，獲馬{num}匹。",
        "敕{A:army}嚴備{bian}。", "命{L:war}分兵禦虜於{bian}。", "{A:war}討{rebel}，平之。",
        "虜犯{bian}，{A:army}擊却之。", "{A:army}奏{rebel}劫掠{xian}，請兵剿捕。",
        "以{A:war}佩{seal}印，充總兵官征{rebel}。", "調{wei}官軍{num}人隸{A:army}。", "{A:army}失機，下獄論死。",
        "遣{A:noble}、{A:army}率官軍{num}人巡邊。", "{A:ministry}督軍務，討{rebel}。",
        "虜寇{bian}，{A:army}力戰，中流矢。", "{A:inner}監軍{bian}，{A:war}總其兵。",
        "敕{O:army}充參將{P}曰：虜情叵測，宜加隄備。", "倭寇犯{fu}，{A:army}率舟師追至海洋，擒{num}人。",
        "{A:army}築{bian}墩臺{num}座。", "{A:war}還自{bian}，獻俘闕下。", "賞{A:army}等征{rebel}功，綵幣有差。",
        "命{P}往{bian}練兵。", "敕責{A:army}、{A:army}玩寇。", "{P}擊{rebel}有功，授{o:army}。",
        "達官{P}來歸，命隸{wei}。",
    ),
    "Diplomacy": (
        "遣{A:envoy}使{k}。", "命{A:envoy}齎敕諭{k}王。", "{k}遣使貢馬，命{A:envoy}宴之。",
        "遣{A:envoy}、{A:envoy}往{k}行冊封禮。", "遣{A:inner}往{k}市馬。", "{A:envoy}使{k}還，進{gift}。",
        "以{A:envoy}為正使，{A:envoy}為副使，冊封{k}王。", "{k}王卒，遣{A:envoy}往祭。", "遣{P}齎詔往諭{k}。",
        "命{A:inner}等率舟師往{k}等國，賜其王綵幣。", "{A:envoy}伴送{k}使臣至{fu}。",
        "遣{O:envoy}等官{P}、{P}使{k}。", "{k}進{gift}，上命{A:envoy}受之於會同館。",
        "{A:army}招諭{k}頭目{n}人來朝。",
    ),
    "Disaster": (
        "{fu}府旱，命{A:field}賑之。", "{A:field}奏{fu}府大水，傷稼，乞蠲租。", "遣{A:ministry}往{prov}賑饑。",
        "{prov}蝗，{A:field}督官捕之。", "巡撫{O:ministry}臣{P}言{fu}、{fu}二府旱災。",
        "{A:field}奏本處雨雹，人畜多死。", "以{fu}水災，命{A:ministry}發倉粟{num}石賑濟。",
        "{A:local}發廩賑饑民，全活{num}人。", "命{A:censor}、{A:ministry}往視{prov}災傷。",
        "{zhou}地震，{A:local}以聞。", "黃河決{fu}，命{A:ministry}發丁夫{num}人塞之。",
        "{A:field}言民饑，請以預備倉粮給之。", "{A:local}奏{xian}民饑疫，詔免其粮。",
        "免{fu}府被災秋粮{num}石，從{A:field}請也。", "{prov}大饑，遣{P}往賑。",
        "京師久旱，命{A:noble}禱於{temple}。", "{fu}府火，延燒民居，{A:local}坐不救，罰俸。",
    ),
    "Other": (
        "{A:civil}言邊務{n}事。", "{A:any}奏請罷{prov}採辦。", "{A:censor}劾{A:any}貪淫不法。",
        "{A:civil}上疏乞致仕，不允。", "{A:field}奏本處民疲，乞減稅課。", "{A:civil}等言：官吏冗濫，宜加裁省。",
        "下{A:any}獄。", "{A:any}有罪，宥之。", "賜{A:high}鈔{num}貫。", "宴{A:honour}等於禮部。",
        "遣{A:noble}祭{temple}。", "命{A:academy}為會試考官。", "{O:ministry}臣{P}等議奏：其法可行。",
        "{A:inner}往{fu}採木。", "逮{A:field}至京，下錦衣衛鞫之。", "命{A:ministry}督運{prov}粮儲。",
        "敕{A:noble}、{A:ministry}修{temple}。", "上諭{A:honour}曰：為政在得人。",
        "{A:censor}、{A:censor}劾奏{P}擅役軍士。", "監生{P}上言六事。", "{A:local}考滿至京，軍民{num}人乞留。",
        "{o:ministry}缺官，{A:censor}疏請簡用。", "{A:academy}等進講畢，賜宴。",
        "{O:censor}掌院事{P}奏：{o:field}多不得人。", "命{A:civil}同{A:inner}清理{prov}鹽法。", "{P}坐事謫戍{bian}。",
        "軍餘{P}告{A:army}不法。", "赦{P}還鄉。",
    ),
    "": (
        "上御奉天門視朝。", "夜，有星大如雞彈，出{star}，西行至{star}。", "享{temple}。",
        "{fu}、{fu}二府旱，詔免其租。", "賜文武羣臣宴於奉天門。", "{k}遣使貢{gift}，賜宴及綵幣。",
        "皇太子千秋節，百官行慶賀禮。", "大祀天地於南郊。", "免{prov}被災州縣秋粮{num}石。", "車駕發京師，次{bian}。",
        "月犯{star}。", "{prov}地震有聲。", "敕{o:army}整飭邊備。", "上謁{ling}。", "命有司修{fu}府學。",
        "詔天下恤刑。", "雨雹，大風拔木。", "修{fu}府城垣。", "虜犯{bian}，官軍擊敗之。", "立皇太子，詔告天下。",
        "革{fu}府所屬河泊所{n}所。", "給{wei}軍士冬衣布花。", "上詣皇太后宮問安。", "遷{wei}於{bian}。",
        "是年天下戶{num}，口{num}。", "諭戶部曰：{prov}民饑，其速賑之。",
    ),
}  # fmt: skip

VALID: Templates = {
    "Appointment": (
        "{A:civil}以薦擢{o:civil}。", "進{A:high}{o:honour}，餘如故。", "命{A:any}署{o:ministry}事。",
        "用大臣薦，以{P}任{o:province}。", "{P}以軍功得授{o:army}。", "召{P}至京，授{o:academy}。",
        "轉{A:censor}於{o:censor}，{A:civil}於{o:court}。", "{A:any}丁憂，以{A:civil}攝其事。",
    ),
    "Death": (
        "{A:any}以老疾卒，命禮部賜祭。", "是日{A:high}薨，上為罷朝。", "{O:civil}致仕歸{P}卒，賻鈔{num}貫。",
        "訃聞，{A:noble}卒於{bian}，歸其喪。", "{A:civil}奉命{prov}，卒於途。", "{P}卒，{xian}人，初授{o:local}。",
    ),
    "Military": (
        "{A:war}出{bian}塞，遇虜與戰，大捷。", "詔{A:war}還京，以{A:army}代守{bian}。",
        "{rebel}復叛，遣{A:war}率兵剿之。", "{A:army}坐失律，謫充軍。", "擒獲賊首{n}人，{A:army}械送京師。",
        "{rebel}圍{xian}，土官{P}率眾拒之。",
    ),
    "Diplomacy": (
        "{k}請封，詔遣{A:envoy}往。", "{A:envoy}奉使{k}，不辱命，賜衣。", "賜{k}王冕服，以{A:envoy}齎往。",
        "遣{P}護送{k}貢使。", "{A:envoy}自{k}還，言其國王恭順。",
    ),
    "Disaster": (
        "{A:field}以{fu}府水患聞，詔蠲田租。", "發粟{num}石，命{A:field}賑{zhou}饑。",
        "霖雨壞{fu}城，{A:local}請修。", "{A:ministry}往祭{temple}祈雨，{prov}久旱故也。",
        "遣{A:censor}覈{prov}旱傷。", "{prov}饑，義民{P}出穀{num}石助賑。",
    ),
    "Other": (
        "{A:civil}疏陳時政{n}條。", "{A:censor}以言事忤旨，杖之。", "儒士{P}獻書。", "宥{P}罪，放歸田里。",
        "詔釋{A:any}，復其官。", "賞{A:high}綵段、銀兩。", "{A:any}奏辭新命，優詔不許。",
        "命{A:ministry}會{A:noble}議鈔法。",
    ),
    "": (
        "上諭羣臣以節用愛民。", "夜，流星出{star}。", "{fu}府蝗，命有司捕之。", "頒曆於天下。", "{k}使臣辭歸，賜鈔。",
        "修{bian}邊墻。", "上幸太學，釋奠先師。", "彗星見{star}，詔求直言。",
    ),
}  # fmt: skip

TEST: Templates = {
    "Appointment": (
        "特命{A:any}陞{o:any}，以旌其勞。", "召{A:civil}還，拜{o:ministry}。",
        "以{prov}缺官，改{A:civil}往任{o:province}。", "{A:any}為{o:civil}，{A:any}為{o:civil}，皆從推舉也。",
        "遷{L:civil}各一級。", "命{P}掌{o:court}印信。", "舉人{N}俱授{o:local}。", "起{P}於家，以為{o:ministry}。",
        "{P}襲{o:army}。", "廷推{A:civil}為{o:ministry}，上用之。",
    ),
    "Death": (
        "{A:any}卒於京師，上賜棺。", "以{A:high}薨，詔贈{o:honour}，謚{shi}。", "{O:high}致仕居家{P}薨，年{age}。",
        "{A:civil}暴病卒，命有司歸其喪。", "鎮守{bian}{A:army}卒，{A:inner!Other}往祭。", "{A:local}卒，民為立祠。",
        "致仕官{P}卒，謚{shi}。",
    ),
    "Military": (
        "兵部請命{A:war}統官軍{num}討{rebel}，從之。", "{A:army}與{A:army}合兵擊虜於{bian}，斬{num}級。",
        "{bian}告警，急遣{A:war}往援。", "{rebel}平，{A:war}以捷聞。", "{A:army}擅離{bian}，械至京鞫治。",
        "命{A:noble}總京營兵，{A:army}副之。", "舍人{P}自請擊{rebel}，許之。", "虜入{bian}掠人畜，詰責{L:army}。",
    ),
    "Diplomacy": (
        "{k}貢使至，令{A:envoy}驗其方物。", "詔諭{k}，{A:envoy}、{P}等充使以行。",
        "{A:envoy}還自{k}，以其王謝恩表上。", "冊{k}世子為王，{A:envoy}持節往。", "{k}乞賜曆，遣{A:envoy}往給。",
        "諭{k}王歸侵地，{P}、{A:envoy}以詔往。",
    ),
    "Disaster": (
        "{prov}饑，命{A:ministry}以漕粟{num}石往賑之。", "蠲{fu}府稅粮，以{A:field}言水旱也。",
        "{A:field}等奏：{xian}山崩，壓死民{num}人。", "久雨河溢，{A:local}請賑被災者。",
        "遣{A:censor}祭{temple}，以{prov}旱災故。", "{fu}民乏食，{A:local}不待報賑之。",
        "{fu}河決，耆民{P}等請築隄。",
    ),
    "Other": (
        "{A:any}自陳衰老求退，慰留之。", "六科劾{A:any}欺罔，詔宥之。", "{O:civil}臣{P}等奏：乞敕所司禁約。",
        "召{A:honour}、{A:academy}議事於便殿。", "給{A:war}誥命。", "{A:censor}糾{A:field}不法，逮治之。",
        "{A:ministry}請復{prov}屯田。", "生員{P}詣闕上書。", "勒{P}閒住。", "旌孝子{P}之門。",
    ),
    "": (
        "夜，月掩{star}。", "詔免{prov}歲辦物料。", "上奉皇太后謁{ling}。", "{k}貢{gift}，却之。",
        "{zhou}大風雨，壞民廬舍。", "增設{wei}倉。", "羣臣上表賀瑞雪。", "敕{o:field}勸課農桑。", "日有食之。",
        "命所司祭{temple}。",
    ),
}  # fmt: skip

CLOSINGS: Templates = {
    "Appointment": (
        "從吏部請也。", "賜敕遣之。", "仍舊任事。", "皆以薦舉也。",
    ),
    "Death": (
        "賜祭葬。", "上悼惜之。", "命有司營葬。", "輟朝一日。", "遣官祭之。", "贈{o:honour}。",
    ),
    "Military": (
        "上嘉其功。", "命兵部議賞。", "賜敕獎諭。", "詔許之。", "下兵部議。",
    ),
    "Diplomacy": (
        "賜宴及鈔。", "賜道里費。", "命禮部知之。", "賜織金文綺。",
    ),
    "Disaster": (
        "從之。", "命戶部覆實。", "民賴以安。", "詔蠲其半。", "上惻然許之。",
    ),
    "Other": (
        "從之。", "上嘉納之。", "命所司知之。", "下廷臣議。", "不報。", "上曰：朕知之矣。", "上是其言。",
        "下{o:ministry}議。",
    ),
    "": (
        "從之。", "詔有司知之。", "百官表賀。", "命所司行之。",
    ),
}  # fmt: skip

ASIDES = (
    "命{title}議之。", "敕諭{title}。", "{title}皆賜鈔。", "先是，{title}以為言。", "時{title}有疾。",
    "{title}陪祀。", "遣中官諭{title}。", "{title}以下賜宴有差。", "上曰：此{emperor}成憲，不可改。",
    "悉如{emperor}舊制。", "是日{emperor}忌辰，不視朝。", "皇太后聞之，以為宜。", "時{o:high}缺。",
    "{o:any}多缺員，詔舉堪任者。",
)  # fmt: skip
"""Clauses of any split that speak of titles without a name."""

_WORDS = {
    "k": (
        "朝鮮 安南 琉球 占城 暹羅 爪哇 滿剌加 蘇門答剌 瓦剌 哈密 撒馬兒罕 日本 烏思藏 兀良哈 朵顏 蘇祿 渤泥 真臘 "
        "別失八里 土魯番 榜葛剌 錫蘭山 吐蕃 建州"
    ),
    "rebel": (
        "麓川 交阯 思任發 兀良哈 廣西猺賊 貴州苗蠻 松潘番寇 大藤峽 浙江礦賊 福建沙縣賊 四川蠻 柳州獞賊 海寇 流賊 "
        "達賊 叛苗 思機發 播州 荊襄流民 河套虜"
    ),
    "gift": (
        "方物 馬駝 金銀器 白象 玉石 珍珠 犀角 馬及方物 麒麟 獅子 胡椒 蘇木 貂鼠皮 海東青"
    ),
    "temple": (
        "太廟 社稷 先農 帝社稷 長陵 孝陵 歷代帝王廟 北鎮 東嶽 南海之神 海瀆 山川 城隍之神 啟聖祠 旗纛 文廟"
    ),
    "ling": (
        "長陵 獻陵 景陵 裕陵 茂陵 泰陵 天壽山諸陵 孝陵"
    ),
    "star": (
        "北斗 紫微垣 天市垣 太微 軒轅 心宿 畢宿 昴宿 參宿 天倉 文昌 婁宿 南斗 天津 五車 房宿"
    ),
    "seal": (
        "征虜將軍 平蠻將軍 鎮朔將軍 征西將軍 征蠻將軍 平胡將軍 征夷將軍 靖虜副將軍"
    ),
    "shi": (
        "忠定 文貞 忠武 莊敏 恭靖 文敏 襄毅 忠肅 文僖 端毅 康靖 武襄 榮襄 文莊 清惠 簡肅"
    ),
    "title": (
        "皇太子 百官 羣臣 有司 親王 公侯駙馬伯 六部 科道官 撫按官 周王 晉王 楚王 蜀王 文武大臣 內閣 三法司"
    ),
    "emperor": (
        "太祖高皇帝 太宗文皇帝 仁宗昭皇帝 宣宗章皇帝 皇祖 皇考"
    ),
    "n": (
        "二 三 四 五 六 七 八 九"
    ),
    "age": (
        "四十九 五十 五十三 五十七 六十 六十一 六十四 六十八 七十 七十二 七十五 七十九 八十 八十三 八十六"
    ),
}  # fmt: skip
FILLERS: Mapping[str, tuple[str, ...]] = {
    "prov": PROVINCES,
    "fu": PREFECTURES,
    "zhou": SUBPREFECTURES,
    "xian": COUNTIES,
    "bian": FRONTIERS,
    "wei": GUARDS,
    **{slot: words(listed) for slot, listed in _WORDS.items()},
}
