"""What no text about health may say, whoever it is about: doses, diagnoses, what to take.

Patterns in English and Chinese, sentence by sentence. They are made to rather refuse a sentence too
many; what says the same in other words they do not find. An article may say what a medicine is, and
that somebody was told by a doctor; it may not tell its reader what to do with one.
"""

from __future__ import annotations

import re

DOSAGE, DIAGNOSIS, MEDICATION = "unsafe_dosage", "unsafe_diagnosis", "unsafe_medication"

_SENTENCE = re.compile(r"(?<=[.!?])\s+|[。！？；\n]")

_NUMBER = r"(?:\d[\d.,/-]*|one|two|three|four|five|six|half|a|several)"
_UNIT = (
    r"(?:mg|mcg|\u00b5g|\u03bcg|milligrams?|micrograms?|grams?|ml|millilit(?:re|er)s?|iu|units?"
    r"|tablets?|pills?|capsules?|drops?|puffs?|doses?|teaspoons?|tablespoons?|injections?|patch(?:es)?)"
)
_TAKING = (
    r"(?:tak(?:e|es|en|ing)|took|dos(?:e|es|age|ing)|dai?ly|nightly|twice|times a|per day|a day"
    r"|every (?:\w+ )?(?:hours?|days?|morning|night|evening)|inject\w*|swallow\w*|administer\w*"
    r"|prescri\w+|give|gives|given|bed ?time|meals?)"
)
_DRUG = (
    r"(?:medic(?:ation|ine)s?|drugs?|pills?|tablets?|antibiotics?|antidepressants?|painkillers?"
    r"|steroids?|statins?|opioids?|sedatives?|insulin|aspirin|ibuprofen|paracetamol|acetaminophen"
    r"|metformin|amoxicillin|penicillin|warfarin|prednisone|morphine|codeine|melatonin"
    r"|\w{3,}(?:cillin|mycin|prazole|statin|sartan|azepam|oxetine|olol))"
)
_ILLNESS = (
    r"(?:diabet\w+|cancer\w*|tumou?rs?|leuk\w+|depress\w+|anxiety|bipolar|schizo\w+|autis\w+|adhd"
    r"|asthma|flu|influenza|covid\w*|pneumonia|tuberculosis|hiv|aids|hypertension"
    r"|high blood pressure|heart (?:disease|attack|failure)|stroke|migraines?|epilepsy|dementia"
    r"|alzheimer\w*|infections?|allerg\w+|ulcers?|an(?:a)?emi[ac]|pregnant|disorders?|disease|syndrome"
    r"|\w{3,}(?:itis|osis|emia|opathy|algia))"
)
_ZH_NUMBER = r"(?:\d[\d.]*|[一二两三四五六七八九十半几])"
_ZH_UNIT = r"(?:片|粒|丸|毫克|微克|毫升|单位|支|滴|袋|mg|ml)"
_ZH_TAKING = r"(?:服|吃|注射|每[日天次晚早]|一[日天次]|剂量|饭[前后]|睡前)"
_ZH_DRUG = (
    r"(?:[\u4e00-\u9fff]{0,6}药(?:物|片|品)?|抗生素|胰岛素|布洛芬|阿司匹林|对乙酰氨基酚|二甲双胍|头孢"
    r"|[\u4e00-\u9fff]{1,4}(?:西林|霉素|他汀|洛尔|沙坦)|激素|安眠药|止痛片)"
)
_ZH_ILLNESS = (
    r"(?:糖尿病|高血压|癌|肿瘤|抑郁|焦虑症|哮喘|流感|感冒|肺炎|肺结核|艾滋|心脏病|中风|癫痫|痴呆|感染"
    r"|过敏|贫血|怀孕|[\u4e00-\u9fff]{1,6}(?:病|症|炎|癌|瘤))"
)

# By reason; the first that fits is told. Within a reason: English, then Chinese.
_PATTERNS: dict[str, tuple[str, ...]] = {
    DOSAGE: (
        rf"\b{_NUMBER}[ -]?{_UNIT}\b.*\b{_TAKING}\b",
        rf"\b{_TAKING}\b.*\b{_NUMBER}[ -]?{_UNIT}\b",
        r"\b(?:double|triple|halve|increase|raise|lower|reduce|skip|adjust)\w*\b"
        r"[^.]{0,30}\b(?:dose|dosage)\b",
        rf"{_ZH_NUMBER}\s*{_ZH_UNIT}.*{_ZH_TAKING}",
        rf"{_ZH_TAKING}.*?{_ZH_NUMBER}\s*{_ZH_UNIT}",
        r"(?:加大|增加|减少|减半|加倍|调整|提高|降低).{0,6}(?:剂量|用量)",
        r"(?:剂量|用量).{0,4}(?:加倍|减半)",
    ),
    DIAGNOSIS: (
        r"\b(?:you|your (?:child|son|daughter|mother|father|partner))\b(?:\s+\w+){0,3}?\s+"
        r"(?:have|has|had|are|is|got|suffer(?:s|ing)?(?: from)?)\b"
        rf"(?:\s+\w+){{0,3}}?\s+{_ILLNESS}\b",
        rf"\b(?:you're|you've)\s+(?:got )?(?:a |an )?{_ILLNESS}\b",
        r"\byour\s+(?:\w+\s+){0,3}(?:symptoms?|signs|pain|cough|headaches?|rash|fever|results?"
        r"|tests?|blood|tiredness|fatigue|dizziness|lump)\b.*\b(?:means?|indicates?|suggests?"
        r"|shows?|confirms?|points? to|is a sign|are signs?|are caused|is caused)\b",
        r"\b(?:i|we) diagnose\b|\byour diagnosis is\b",
        r"\bdiagnos(?:e|ed|is)\b[^.]{0,20}\byou(?:rs)?\b",
        r"(?:你|您|你的孩子|您的孩子).{0,6}(?:得了|得的是|患有|患上|患了|是|有|怀疑)"
        rf".{{0,6}}{_ZH_ILLNESS}",
        r"(?:你|您)的.{0,8}(?:症状|结果|疼痛|咳嗽|头痛|发烧|皮疹|指标).{0,6}"
        r"(?:表明|说明|意味着|提示|显示|就是|是由)",
        r"诊断(?:你|您)|(?:你|您).{0,6}诊断(?:为|是)",
    ),
    MEDICATION: (
        r"\b(?:you|patients?|adults?|children|everyone|readers?)\s+(?:\w+\s+){0,2}?"
        r"(?:should|must|can|need to|have to|ought to|may)\s+(?:\w+\s+){0,2}?"
        rf"(?:take|use|try|stop|start|avoid|inject|swap|replace)\b.*\b{_DRUG}\b",
        r"(?:^|[,;:]\s*)(?:\w+\s+){0,2}?(?:take|try|stop|start|quit|skip|inject|replace|swap)\b"
        rf"[^.]{{0,30}}\b{_DRUG}\b",
        rf"\b(?:cures?|heals?|reverses?|gets? rid of)\b[^.]{{0,20}}\b{_ILLNESS}\b",
        r"\b(?:instead of|no need (?:for|to see)|without (?:seeing|asking)|rather than)\b"
        r"[^.]{0,20}\b(?:doctor|physician|hospital|medication|medicine)\b",
        r"(?:建议|应该|应当|可以|需要|必须|请|最好|不妨)(?:你|您|大家|患者|读者)?"
        r"(?:立即|马上|开始|停止|继续)?(?:服用|吃|使用|注射|停用|停止服用|停|换用)"
        rf".{{0,6}}?{_ZH_DRUG}",
        rf"(?:停止|停掉|不要再?|别再?)(?:服用|吃|使用|用).{{0,6}}?{_ZH_DRUG}",
        r"自行(?:服药|用药|停药)",
        rf"(?:根治|治愈|包治|治好|彻底消除).{{0,6}}?{_ZH_ILLNESS}",
        r"(?:无需|不需要|不必|不用)(?:看医生|就医|去医院|吃药)|(?:代替|替代)(?:医生|药物|就医)",
    ),
}
_UNSAFE = [(reason, re.compile(pattern, re.IGNORECASE))
           for reason, patterns in _PATTERNS.items() for pattern in patterns]  # fmt: skip

_NOTICES = {"en": "[synthetic, not advice]", "zh": "[合成内容, 非医疗建议]"}


def unsafe(text: str) -> str | None:
    """Why a text about health is refused: a word, or None."""
    for sentence in _SENTENCE.split(text):
        for reason, pattern in _UNSAFE:
            if sentence and pattern.search(sentence.strip()):
                return reason
    return None


def with_notice(answer: object, texts: list[str], language: str) -> object:
    """An answer whose free texts end with what they are."""
    if isinstance(answer, dict):
        return {name: with_notice(inner, texts, language) for name, inner in answer.items()}
    if isinstance(answer, list):
        return [with_notice(inner, texts, language) for inner in answer]
    return f"{answer} {_NOTICES[language]}" if answer in texts else answer
