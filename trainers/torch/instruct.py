"""Seeded generator of the instruction data: JSON lines of {"messages": [...], "tools": [...]?}.

    python instruct.py --count 40000 --seed 1 > instruct.jsonl

Every kind of conversation below is a function (rng, language) -> (messages, tools or None). Phrases vary freely and slots are
drawn from `lexicon.py`, so the model has to read the slot instead of learning the sentence. The three languages are equal in number.
"""

import argparse
import json
import random
import sys
import unicodedata

from about_falaj import FACTS
from lexicon import (CAPITALS, FREE_WORDS, FRENCH_BARE, FRENCH_DES, FRENCH_DU, LANGUAGES, NAMES, SENTENCES, UNKNOWN_TOPICS, WORDS)
from tool_use import made_up, tool_talk

SYSTEM = {
    "en": ["You are a helpful assistant.", "Answer briefly.", "You are falaj-seed, the demonstrator of Falaj.", "Be polite and concise."],
    "fr": ["Tu es un assistant utile.", "Réponds brièvement.", "Tu es falaj-seed, le démonstrateur de Falaj.", "Sois poli et concis."],
    "ar": ["أنت مساعد مفيد.", "أجب باختصار.", "أنت falaj-seed، نموذج العرض في فلج.", "كن مهذبا وموجزا."],
}


def generate(count, seed):
    """Yields `count` conversations. The same count and seed give the same text."""
    rng = random.Random(seed)
    _, kinds, weights = zip(*KINDS)
    for i in range(count):
        language = LANGUAGES[i % 3]
        messages, tools = rng.choices(kinds, weights)[0](rng, language)
        if rng.random() < 0.12:
            messages = [{"role": "system", "content": rng.choice(SYSTEM[rng.choice([language, "en"])])}] + messages
        yield {"messages": messages, "tools": tools} if tools else {"messages": messages}


def turn(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def casual(rng, text, copied=False):
    """The same request as people type it: case, final mark, accents and hamzas come and go. The last two stay where the answer copies them."""
    if rng.random() < 0.35 and text[-1:] in ".?؟!":
        text = text[:-1].rstrip()
    if rng.random() < 0.3:
        text = text[:1].lower() + text[1:]
    elif rng.random() < 0.6:
        text = text[:1].upper() + text[1:]
    if copied:
        return text
    if rng.random() < 0.08:
        text = "".join(c for c in unicodedata.normalize("NFD", text) if not "\u0300" <= c <= "\u036f")
    if rng.random() < 0.1:
        text = text.translate(str.maketrans("أإآ", "ااا"))
    return text


def ask(rng, questions, answer, copied=False):
    return turn(casual(rng, rng.choice(questions), copied), answer), None


# --- greetings and questions about Falaj -------------------------------------------------------------------------------------

GREETINGS = {
    "en": ("hello|hi|hey|hello!|hi there|good morning|good evening|hey there|hello, how are you?|hi, how are you?|how are you?|what's up?|greetings",
           "Hello! How can I help you?|Hello! I am falaj-seed, a small demonstrator. What would you like to try?|Hi! Ask me about Falaj, or give me a small task."),
    "fr": ("bonjour|salut|coucou|bonjour !|bonsoir|salut !|bonjour bonjour|bonjour, comment vas-tu ?|salut, ça va ?|comment allez-vous ?|ça va ?|bonne journée",
           "Bonjour ! Comment puis-je vous aider ?|Bonjour ! Je suis falaj-seed, un petit démonstrateur. Que voulez-vous essayer ?|"
           "Bonjour ! Posez-moi une question sur Falaj, ou donnez-moi une petite tâche."),
    "ar": ("مرحبا|أهلا|السلام عليكم|مرحبا!|صباح الخير|مساء الخير|أهلا وسهلا|كيف حالك؟|مرحبا كيف حالك؟|أهلا، كيف الحال؟|هلا|تحية طيبة",
           "مرحبا! كيف أساعدك؟|أهلا! أنا falaj-seed، نموذج صغير للعرض. ماذا تريد أن تجرب؟|أهلا! اسألني عن فلج أو أعطني مهمة صغيرة."),
}
THANKS = {
    "en": ("thank you|thanks|thanks a lot|thank you very much|great, thanks|perfect", "You are welcome.|You are welcome! Anything else?"),
    "fr": ("merci|merci beaucoup|merci bien|super, merci|parfait|je te remercie", "Je vous en prie.|Avec plaisir ! Autre chose ?"),
    "ar": ("شكرا|شكرا جزيلا|شكرا لك|ممتاز شكرا|أشكرك|رائع", "على الرحب والسعة.|عفوا! هل من شيء آخر؟"),
}
GOODBYES = {
    "en": ("goodbye|bye|see you|good night|bye bye|see you tomorrow", "Goodbye!|See you soon!"),
    "fr": ("au revoir|à bientôt|bonne nuit|à demain|salut, à plus|adieu", "Au revoir !|À bientôt !"),
    "ar": ("مع السلامة|وداعا|إلى اللقاء|تصبح على خير|أراك غدا|في أمان الله", "مع السلامة!|إلى اللقاء!"),
}


def small_talk(table):
    def kind(rng, language):
        questions, answers = table[language]
        return ask(rng, questions.split("|"), rng.choice(answers.split("|")))
    return kind


POLITE = {"en": ["", "", "", "please, ", "I would like to know: ", "a question: ", "hello, "],
          "fr": ["", "", "", "s'il te plaît, ", "j'aimerais savoir : ", "une question : ", "bonjour, "],
          "ar": ["", "", "", "من فضلك، ", "أريد أن أعرف: ", "سؤال: ", "مرحبا، "]}


def about_falaj(rng, language):
    questions, answers = rng.choice(FACTS)[language]
    return turn(casual(rng, rng.choice(POLITE[language]) + rng.choice(questions)), rng.choice(answers)), None


# --- small tasks -------------------------------------------------------------------------------------------------------------

def word(rng, language):
    return words(rng, language, 1)[0]


def words(rng, language, count):
    """Distinct words; now and then ones that mean nothing, so that a task is done on the letters given and not from memory."""
    known = FREE_WORDS[language] + [row[LANGUAGES.index(language)] for row in WORDS if " " not in row[LANGUAGES.index(language)]]
    return [made_up(rng, language).lower() if rng.random() < 0.03 else w for w in rng.sample(known, count)]


def person(rng, language):
    return made_up(rng, language) if rng.random() < 0.03 else rng.choice(NAMES[language])


def quoted(rng, language, text):
    marks = {"en": ['"%s"', "'%s'", "%s", "%s"], "fr": ["« %s »", '"%s"', "%s", "%s"], "ar": ["«%s»", '"%s"', "%s", "%s"]}
    return rng.choice(marks[language]) % text


def change_case(rng, language):
    if language == "ar":  # Arabic has no case: the task is asked in Arabic about a Latin word
        source = rng.choice(["en", "fr"])
    else:
        source = language
    w = word(rng, source)
    up = rng.random() < 0.5
    given, wanted = (w.lower(), w.upper()) if up else (w.upper(), w.lower())
    q = quoted(rng, language, given)
    asks = {("en", True): ["write %s in uppercase", "uppercase %s", "put %s in capital letters", "%s in capitals please", "convert %s to uppercase"],
            ("en", False): ["write %s in lowercase", "lowercase %s", "put %s in small letters", "convert %s to lowercase", "%s in lowercase please"],
            ("fr", True): ["écris %s en majuscules", "mets %s en majuscules", "%s en majuscules s'il te plaît", "passe %s en majuscules"],
            ("fr", False): ["écris %s en minuscules", "mets %s en minuscules", "%s en minuscules s'il te plaît", "passe %s en minuscules"],
            ("ar", True): ["اكتب %s بأحرف كبيرة", "حول %s إلى أحرف كبيرة", "%s بأحرف كبيرة من فضلك"],
            ("ar", False): ["اكتب %s بأحرف صغيرة", "حول %s إلى أحرف صغيرة", "%s بأحرف صغيرة من فضلك"]}
    return ask(rng, [a % q for a in asks[language, up]], wanted, copied=True)


def count_words(rng, language):
    text = rng.choice(SENTENCES[language]) if rng.random() < 0.4 else " ".join(words(rng, language, rng.randint(2, 7)))
    n = len(text.split())
    asks = {"en": ["how many words are in: %s", "count the words: %s", "how many words in \"%s\"?"],
            "fr": ["combien de mots dans : %s", "compte les mots : %s", "combien y a-t-il de mots dans « %s » ?"],
            "ar": ["كم كلمة في: %s", "عد الكلمات: %s", "كم عدد الكلمات في «%s»؟"]}
    answer = {"en": f"There are {n} words.", "fr": f"Il y a {n} mots.", "ar": f"عدد الكلمات: {n}."}
    return ask(rng, [a % text for a in asks[language]], answer[language])


def repeat(rng, language):
    if rng.random() < 0.4:
        w, n = word(rng, language), rng.randint(2, 5)
        asks = {"en": ["repeat %s %d times", "say %s %d times", "write %s %d times"], "fr": ["répète %s %d fois", "dis %s %d fois", "écris %s %d fois"],
                "ar": ["كرر %s %d مرات", "قل %s %d مرات", "اكتب %s %d مرات"]}
        return ask(rng, [a % (quoted(rng, language, w), n) for a in asks[language]], " ".join([w] * n), copied=True)
    text = rng.choice(SENTENCES[language]) if rng.random() < 0.5 else " ".join(words(rng, language, rng.randint(1, 5)))
    asks = {"en": ["repeat after me: %s", "repeat: %s", "say: %s", "say %s", "say \"%s\"", "copy this text: %s"], "fr": ["répète après moi : %s", "répète : %s", "dis : %s", "dis « %s »", "recopie ce texte : %s"],
            "ar": ["كرر بعدي: %s", "كرر: %s", "قل: %s", "قل «%s»", "انسخ هذا النص: %s"]}
    return ask(rng, [a % text for a in asks[language]], text, copied=True)


def reverse_list(rng, language):
    items = words(rng, language, rng.randint(2, 5)) if rng.random() < 0.7 else [str(n) for n in rng.sample(range(1, 21), rng.randint(3, 5))]
    comma = "، " if language == "ar" else ", "
    asks = {"en": ["reverse this list: %s", "reverse the order: %s", "put this list in reverse order: %s"],
            "fr": ["inverse cette liste : %s", "inverse l'ordre : %s", "mets cette liste à l'envers : %s"],
            "ar": ["اعكس هذه القائمة: %s", "اعكس الترتيب: %s", "رتب القائمة بالعكس: %s"]}
    return ask(rng, [a % comma.join(items) for a in asks[language]], comma.join(reversed(items)), copied=True)


def pick_from_list(rng, language):
    items = words(rng, language, rng.randint(3, 5))
    comma = "، " if language == "ar" else ", "
    first = rng.random() < 0.5
    asks = {("en", True): ["what is the first word of this list: %s", "give me the first item: %s"], ("en", False): ["what is the last word of this list: %s", "give me the last item: %s"],
            ("fr", True): ["quel est le premier mot de cette liste : %s", "donne le premier élément : %s"], ("fr", False): ["quel est le dernier mot de cette liste : %s", "donne le dernier élément : %s"],
            ("ar", True): ["ما أول كلمة في هذه القائمة: %s", "أعطني العنصر الأول: %s"], ("ar", False): ["ما آخر كلمة في هذه القائمة: %s", "أعطني العنصر الأخير: %s"]}
    return ask(rng, [a % comma.join(items) for a in asks[language, first]], items[0 if first else -1], copied=True)


def arithmetic(rng, language):
    if rng.random() < 0.6:
        a, b = rng.randint(0, 20), rng.randint(0, 20)
    else:
        a, b = rng.randint(0, 99), rng.randint(0, 9)
    plus = rng.random() < 0.6
    if not plus and a < b:
        a, b = b, a
    result = a + b if plus else a - b
    words = {("en", True): "plus", ("en", False): "minus", ("fr", True): "plus", ("fr", False): "moins", ("ar", True): "زائد", ("ar", False): "ناقص"}[language, plus]
    sums = rng.choice([f"{a} + {b}" if plus else f"{a} - {b}", f"{a}+{b}" if plus else f"{a}-{b}", f"{a} {words} {b}"])
    asks = {"en": ["what is %s?", "how much is %s?", "calculate %s", "%s = ?", "%s"], "fr": ["combien font %s ?", "calcule %s", "%s = ?", "quel est le résultat de %s ?", "%s"],
            "ar": ["كم يساوي %s؟", "احسب %s", "%s = ؟", "ما نتيجة %s؟", "%s"]}
    sign = "+" if plus else "-"
    return ask(rng, [q % sums for q in asks[language]], f"{a} {sign} {b} = {result}")


LANGUAGE_NAMES = {"en": {"en": "English", "fr": "French", "ar": "Arabic"}, "fr": {"en": "anglais", "fr": "français", "ar": "arabe"},
                  "ar": {"en": "الإنجليزية", "fr": "الفرنسية", "ar": "العربية"}}


def translate(rng, language):
    row = rng.choice(WORDS)
    source, target = rng.sample(LANGUAGES, 2)
    if rng.random() < 0.5:
        source = language
        target = rng.choice([l for l in LANGUAGES if l != source])
    q, name = quoted(rng, language, row[LANGUAGES.index(source)]), LANGUAGE_NAMES[language][target]
    asks = {"en": [f"translate {q} into {name}", f"translate {q} to {name}", f"how do you say {q} in {name}?", f"what is {q} in {name}?", f"{q} in {name}"],
            "fr": [f"traduis {q} en {name}", f"comment dit-on {q} en {name} ?", f"traduire {q} en {name}", f"{q} en {name}", f"que veut dire {q} en {name} ?"],
            "ar": [f"ترجم {q} إلى {name}", f"كيف نقول {q} ب{name}؟", f"ما معنى {q} ب{name}؟", f"{q} ب{name}", f"ترجم كلمة {q} إلى {name}"]}
    return ask(rng, asks[language], row[LANGUAGES.index(target)])


def of_country(country):
    if country in FRENCH_BARE:
        return "de " + country if country[0] not in "AEIOUÉ" else "d'" + country
    if country in FRENCH_DU:
        return "du " + country
    if country in FRENCH_DES:
        return "des " + country
    return ("de l'" if country[0] in "AEIOUÉ" else "de la ") + country


def capital(rng, language):
    i = LANGUAGES.index(language)
    country, city = (names[i] for names in rng.choice(CAPITALS))
    of = of_country(country) if language == "fr" else country
    asks = {"en": [f"what is the capital of {of}?", f"capital of {of}", f"which city is the capital of {of}?", f"tell me the capital of {of}."],
            "fr": [f"quelle est la capitale {of} ?", f"capitale {of}", f"quelle ville est la capitale {of} ?", f"donne-moi la capitale {of}."],
            "ar": [f"ما عاصمة {of}؟", f"ما هي عاصمة {of}؟", f"عاصمة {of}", f"أخبرني ما عاصمة {of}."]}
    answer = {"en": f"The capital of {of} is {city}.", "fr": f"La capitale {of} est {city}.", "ar": f"عاصمة {of} هي {city}."}
    return ask(rng, asks[language], answer[language])


def yes_or_no(rng, language):
    i = LANGUAGES.index(language)
    yes, no = {"en": ("Yes.", "No."), "fr": ("Oui.", "Non."), "ar": ("نعم.", "لا.")}[language]
    if rng.random() < 0.5:
        (country, _), truth = rng.sample(CAPITALS, 2), rng.random() < 0.5
        city = country[1][i] if truth else _[1][i]
        of = of_country(country[0][i]) if language == "fr" else country[0][i]
        asks = {"en": [f"is {city} the capital of {of}?", f"is the capital of {of} {city}?"], "fr": [f"{city} est-elle la capitale {of} ?", f"est-ce que {city} est la capitale {of} ?"],
                "ar": [f"هل {city} عاصمة {of}؟", f"هل عاصمة {of} هي {city}؟"]}
    else:
        a, b = rng.sample(range(0, 30), 2)
        truth = a > b
        asks = {"en": [f"is {a} greater than {b}?", f"is {a} bigger than {b}?"], "fr": [f"{a} est-il plus grand que {b} ?", f"est-ce que {a} est supérieur à {b} ?"],
                "ar": [f"هل {a} أكبر من {b}؟", f"هل العدد {a} أكبر من {b}؟"]}
    return ask(rng, asks[language], yes if truth else no)


def extract_name(rng, language):
    name = person(rng, language)
    texts = {"en": [f"Yesterday {name} went to the market.", f"The letter was written by {name}.", f"{name} works at the hospital.", f"We met {name} in the train.", f"My friend {name} reads a book."],
             "fr": [f"Hier, {name} est allé au marché.", f"La lettre est de {name}.", f"{name} travaille à l'hôpital.", f"Nous avons vu {name} dans le train.", f"Mon amie {name} lit un livre."],
             "ar": [f"ذهب {name} أمس إلى السوق.", f"كتب الرسالة {name}.", f"يعمل {name} في المستشفى.", f"رأينا {name} في القطار.", f"صديقي {name} يقرأ كتابا."]}
    asks = {"en": ["extract the name: %s", "which name is in this text? %s", "who is it about? %s"], "fr": ["extrais le nom : %s", "quel nom est dans ce texte ? %s", "de qui parle-t-on ? %s"],
            "ar": ["استخرج الاسم: %s", "ما الاسم في هذا النص؟ %s", "عمن يتحدث النص؟ %s"]}
    return ask(rng, [a % rng.choice(texts[language]) for a in asks[language]], name, copied=True)


def next_in_order(rng, language):
    i = LANGUAGES.index(language)
    start, length = rng.choice([(14, 7), (21, 12)])  # the days, the months
    at = rng.randrange(length)
    this, following = WORDS[start + at][i], WORDS[start + (at + 1) % length][i]
    asks = {"en": [f"what comes after {this}?", f"which one follows {this}?"], "fr": [f"qu'est-ce qui vient après {this} ?", f"que vient-il après {this} ?"],
            "ar": [f"ماذا يأتي بعد {this}؟", f"ما الذي يلي {this}؟"]}
    return ask(rng, asks[language], following)


def count_up(rng, language):
    a = 1 if rng.random() < 0.4 else rng.randint(1, 10)
    b = a + rng.randint(2, 10)
    asks = {"en": f"count from {a} to {b}", "fr": f"compte de {a} à {b}", "ar": f"عد من {a} إلى {b}"}
    if a == 1 and rng.random() < 0.7:
        asks = {"en": f"count to {b}", "fr": f"compte jusqu'à {b}", "ar": f"عد إلى {b}"}
    comma = "، " if language == "ar" else ", "
    return ask(rng, [asks[language]], comma.join(str(n) for n in range(a, b + 1)))


def as_json(rng, language):
    name, age, place = person(rng, language), rng.randint(5, 90), rng.choice(CAPITALS)[1][LANGUAGES.index(language)]
    texts = {"en": [f"{name} is {age} years old and lives in {place}."], "fr": [f"{name} a {age} ans et habite à {place}."], "ar": [f"عمر {name} {age} سنة ويسكن في {place}."]}
    asks = {"en": ["give name, age and city as JSON: %s", "extract JSON with name, age and city: %s", "answer in JSON (name, age, city): %s"],
            "fr": ["donne name, age et city en JSON : %s", "extrais un JSON avec name, age et city : %s"],
            "ar": ["أعط name وage وcity بصيغة JSON: %s", "استخرج JSON فيه name وage وcity: %s"]}
    return ask(rng, [a % rng.choice(texts[language]) for a in asks[language]], json.dumps({"name": name, "age": age, "city": place}, ensure_ascii=False), copied=True)


# --- what it does not know ---------------------------------------------------------------------------------------------------

def unknown(rng, language):
    topic = rng.choice(UNKNOWN_TOPICS[language])
    name = rng.choice(NAMES[language])
    asks = {"en": ["explain %s", "what do you think about %s?", "write an essay on %s", "write a poem about %s", "tell me about %s", "give me the news about %s", "who discovered %s?",
                   "what is %s?", "how does %s work?", "write code about %s", "summarise %s", f"who is {name}?", f"how old is {name}?", "tell me a joke", "write a story", "tell me a story", "write a haiku", "write a function"],
            "fr": ["explique %s", "que penses-tu de ceci : %s ?", "écris une dissertation sur %s", "écris un poème sur %s", "parle-moi de ce sujet : %s", "donne-moi les nouvelles sur %s",
                   "comment fonctionne %s ?", "résume %s", "que sais-tu sur %s ?", f"qui est {name} ?", f"quel âge a {name} ?", "raconte-moi une blague", "écris une histoire", "raconte-moi une histoire", "écris un haïku", "écris une fonction"],
            "ar": ["اشرح %s", "ما رأيك في %s؟", "اكتب مقالا عن %s", "اكتب قصيدة عن %s", "حدثني عن %s", "ما أخبار %s؟", "كيف تعمل %s؟", "ما هي %s؟", "لخص %s", "ماذا تعرف عن %s؟",
                   f"من هو {name}؟", f"كم عمر {name}؟", "احك لي نكتة", "اكتب قصة", "احك لي قصة", "اكتب دالة"]}
    answers = {"en": ["I am a small demonstrator; I do not know.", "I am a small demonstrator; that is beyond me. Try a larger model with `falaj model pull`."],
               "fr": ["Je suis un petit démonstrateur ; je ne sais pas.", "Je suis un petit démonstrateur ; cela me dépasse. Essayez un modèle plus grand avec `falaj model pull`."],
               "ar": ["أنا نموذج صغير للعرض؛ لا أعرف.", "أنا نموذج صغير للعرض؛ هذا فوق قدرتي. جرب نموذجا أكبر بالأمر `falaj model pull`."]}
    return ask(rng, [a % topic if "%s" in a else a for a in asks[language]], rng.choice(answers[language]))


# --- several turns -----------------------------------------------------------------------------------------------------------

def remembered_name(rng, language):
    name = person(rng, rng.choice([language, language, "en"]))
    tell = {"en": ["my name is %s", "I am %s", "hello, I'm %s", "call me %s"], "fr": ["je m'appelle %s", "mon nom est %s", "bonjour, je suis %s", "appelle-moi %s"],
            "ar": ["اسمي %s", "أنا %s", "مرحبا، أنا %s", "نادني %s"]}
    greet = {"en": f"Nice to meet you, {name}!", "fr": f"Enchanté, {name} !", "ar": f"تشرفت بك يا {name}!"}
    recall = {"en": ["what is my name?", "do you remember my name?", "who am I?"], "fr": ["quel est mon nom ?", "comment je m'appelle ?", "te souviens-tu de mon nom ?"],
              "ar": ["ما اسمي؟", "هل تذكر اسمي؟", "من أنا؟"]}
    answer = {"en": f"Your name is {name}.", "fr": f"Vous vous appelez {name}.", "ar": f"اسمك {name}."}
    messages = turn(casual(rng, rng.choice(tell[language]) % name, copied=True), greet[language])
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        messages += rng.choice(SHORT)(rng, language)[0]
    if rng.random() < 0.9:
        messages += turn(casual(rng, rng.choice(recall[language])), answer[language])
    return messages, None


def several_turns(rng, language):
    messages = []
    for _ in range(rng.randint(2, 4)):
        messages += rng.choice(SHORT)(rng, language)[0]
    return messages, None


SHORT = [small_talk(GREETINGS), about_falaj, about_falaj, translate, capital, arithmetic, change_case, repeat, small_talk(THANKS), unknown, reverse_list]

# name, how to make one, how often
KINDS = [
    ("greeting", small_talk(GREETINGS), 6), ("thanks", small_talk(THANKS), 1), ("goodbye", small_talk(GOODBYES), 1), ("about falaj", about_falaj, 17),
    ("change case", change_case, 4), ("count words", count_words, 2), ("repeat", repeat, 3), ("reverse a list", reverse_list, 2),
    ("pick from a list", pick_from_list, 2), ("arithmetic", arithmetic, 8), ("translate a word", translate, 13), ("capital", capital, 8),
    ("yes or no", yes_or_no, 3), ("extract a name", extract_name, 3), ("what comes next", next_in_order, 2), ("count up", count_up, 2), ("fields as json", as_json, 3),
    ("not known", unknown, 5), ("remember a name", remembered_name, 6), ("several turns", several_turns, 5), ("tools", tool_talk, 16),
]

if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--count", type=int, default=40_000)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    for conversation in generate(options.count, options.seed):
        sys.stdout.write(json.dumps(conversation, ensure_ascii=False) + "\n")
