// Style tags as they are shown; to the model they are always said in English.

import type { Language } from "./words";

const ZH: Readonly<Record<string, string>> = {
  pop: "流行", rock: "摇滚", ballad: "抒情", folk: "民谣", country: "乡村", jazz: "爵士",
  "r&b": "R&B", reggae: "雷鬼", dance: "舞曲", synthwave: "合成器浪潮", "lo-fi": "低保真",
  waltz: "华尔兹", "female vocal": "女声", "male vocal": "男声", instrumental: "纯音乐",
  piano: "钢琴", "electric piano": "电钢琴", organ: "风琴", "acoustic guitar": "木吉他",
  "clean guitar": "清音吉他", "nylon guitar": "尼龙弦吉他", "muted guitar": "闷音吉他",
  "overdriven guitar": "过载吉他", "distorted guitar": "失真吉他", bass: "贝斯",
  "synth bass": "合成贝斯", drums: "鼓", strings: "弦乐", "synth strings": "合成弦乐",
  "synth pad": "合成铺底", "synth lead": "合成主音", "square lead": "方波主音",
  vibraphone: "颤音琴", accordion: "手风琴", banjo: "班卓琴", harp: "竖琴", violin: "小提琴",
  saxophone: "萨克斯", trumpet: "小号", flute: "长笛", happy: "快乐", bright: "明亮",
  sunny: "阳光", hopeful: "充满希望", energetic: "有活力", euphoric: "狂喜", driving: "有推动力",
  playful: "俏皮", warm: "温暖", smooth: "顺滑", romantic: "浪漫", tender: "温柔",
  gentle: "轻柔", calm: "平静", relaxed: "放松", dreamy: "梦幻", sleepy: "慵懒",
  nostalgic: "怀旧", elegant: "优雅", sultry: "性感", sad: "悲伤", dark: "阴暗",
  rebellious: "叛逆",
};

export function tagName(tag: string, language: Language): string {
  if (language === "en") return tag;
  const known = ZH[tag];
  if (known !== undefined) return known;
  const key = /^([A-G])(b|#)? (major|minor)$/.exec(tag);
  if (key === null) return tag;
  const sign = { b: "降", "#": "升" }[key[2] ?? ""] ?? "";
  return `${sign}${key[1]} ${key[3] === "major" ? "大调" : "小调"}`;
}
