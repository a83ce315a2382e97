"""Conversations with tools: the model reads the schemas, calls one, and says the result in words.

Each tool has aliases for its name and its parameters, so that the call has to be copied from the schema that is given.
"""

import json

from lexicon import CAPITALS, EXTRA_CITIES, LANGUAGES, NAMES, SENTENCES, UNKNOWN_TOPICS, WORDS

CITIES = [city for _, city in CAPITALS] + EXTRA_CITIES


def tool_talk(rng, language):
    """One request with one to three tools in sight: a call (then, mostly, its result in words), or plain words when no tool fits."""
    # The functions on the right take (rng, language) and return (user text, arguments by role, result, answer).
    chosen = rng.choice(TOOLS)
    others = rng.sample([t for t in TOOLS if t is not chosen], rng.choice([0, 0, 0, 1, 1, 2]))
    schema, names = spell(rng, chosen)
    tools = [schema] + [spell(rng, t)[0] for t in others]
    rng.shuffle(tools)
    if rng.random() < 0.12:  # a greeting needs no tool
        hello, reply = rng.choice(NO_TOOL[language])
        return [{"role": "user", "content": hello}, {"role": "assistant", "content": reply}], tools
    asked, arguments, result, answer = chosen["request"](rng, language)
    call = {"name": schema["function"]["name"], "arguments": {names[role]: value for role, value in arguments.items()}}
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}]
    if rng.random() < 0.65:
        content = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        messages += [{"role": "tool", "content": content}, {"role": "assistant", "content": answer}]
    return messages, tools


def spell(rng, tool):
    """One spelling of a tool: its JSON schema, and the parameter name chosen for each role."""
    names = {role: rng.choice(spellings) for role, (spellings, _, _) in tool["parameters"].items()}
    properties = {}
    for role, (_, kind, description) in tool["parameters"].items():
        properties[names[role]] = dict(kind)
        if rng.random() < 0.25:
            properties[names[role]]["description"] = description
    function = {"name": rng.choice(tool["names"])}
    if rng.random() < 0.85:
        function["description"] = rng.choice(tool["descriptions"])
    function["parameters"] = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": function}, names


NO_TOOL = {
    "en": [("hello", "Hello! How can I help you?"), ("thank you", "You are welcome."), ("who are you?", "I am falaj-seed, a small demonstrator model built into Falaj.")],
    "fr": [("bonjour", "Bonjour ! Comment puis-je vous aider ?"), ("merci", "Je vous en prie."), ("qui es-tu ?", "Je suis falaj-seed, un petit modèle de démonstration intégré à Falaj.")],
    "ar": [("مرحبا", "مرحبا! كيف أساعدك؟"), ("شكرا", "على الرحب والسعة."), ("من أنت؟", "أنا falaj-seed، نموذج صغير للعرض مدمج في فلج.")],
}


def pick(rng, options, language):
    return rng.choice(options[language].split("|"))


def capitalised(rng, text):
    return text[:1].upper() + text[1:] if rng.random() < 0.6 else text


def made_up(rng, language):
    """A place nobody knows, so that copying is learnt and not only a list of cities."""
    if language == "ar":
        return "".join(rng.choice(["با", "را", "مو", "سي", "ن", "دا", "لو", "كا", "تي", "ر"]) for _ in range(rng.randint(2, 4)))
    return "".join(rng.choice(["ba", "ro", "mi", "ta", "lun", "ver", "so", "ka", "del", "nor", "ri", "quo"]) for _ in range(rng.randint(2, 4))).capitalize()


def city(rng, language):
    return made_up(rng, language) if rng.random() < 0.03 else rng.choice(CITIES)[LANGUAGES.index(language)]


def weather(rng, language):
    place, degrees = city(rng, language), rng.randint(-5, 42)
    sky = rng.randrange(5)
    condition = {"en": ["sunny", "cloudy", "rainy", "windy", "clear"], "fr": ["ensoleillé", "nuageux", "pluvieux", "venteux", "clair"],
                 "ar": ["مشمس", "غائم", "ممطر", "عاصف", "صاف"]}[language][sky]
    asked = pick(rng, {"en": f"what is the weather in {place}?|weather in {place}|how is the weather in {place} today?|is it hot in {place}?|what's the weather like in {place}?|what is the temperature in {place}?",
                       "fr": f"quel temps fait-il à {place} ?|météo à {place}|quelle est la météo à {place} ?|fait-il chaud à {place} ?|quelle est la température à {place} ?",
                       "ar": f"كيف الطقس في {place}؟|ما حالة الطقس في {place}؟|الطقس في {place}|هل الجو حار في {place}؟|ما درجة الحرارة في {place}؟"}, language)
    answer = {"en": f"In {place} it is {condition}, {degrees} °C.", "fr": f"À {place}, le temps est {condition}, {degrees} °C.", "ar": f"الطقس في {place} {condition}، ودرجة الحرارة {degrees}."}
    result = rng.choice([{"temperature": degrees, "condition": condition}, f"{degrees} °C, {condition}", {"condition": condition, "temperature": degrees}])
    return capitalised(rng, asked), {"city": place}, result, answer[language]


def clock(rng, language):
    place, now = city(rng, language), f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    asked = pick(rng, {"en": f"what time is it in {place}?|time in {place}|tell me the time in {place}|what is the local time in {place}?",
                       "fr": f"quelle heure est-il à {place} ?|heure à {place}|donne-moi l'heure à {place}|quelle est l'heure locale à {place} ?",
                       "ar": f"كم الساعة في {place}؟|الوقت في {place}|أخبرني كم الساعة الآن في {place}|ما التوقيت في {place}؟"}, language)
    answer = {"en": f"It is {now} in {place}.", "fr": f"Il est {now} à {place}.", "ar": f"الساعة {now} في {place}."}
    return capitalised(rng, asked), {"city": place}, rng.choice([{"time": now}, now]), answer[language]


def search(rng, language):
    topic = rng.choice(UNKNOWN_TOPICS[language] + [row[LANGUAGES.index(language)] for row in rng.sample(WORDS, 20)])
    asked = pick(rng, {"en": f"search the documents for {topic}|find documents about {topic}|look for {topic} in the library|search for {topic}",
                       "fr": f"cherche dans les documents : {topic}|trouve des documents sur {topic}|cherche {topic} dans la bibliothèque|recherche {topic}",
                       "ar": f"ابحث في الوثائق عن {topic}|جد وثائق عن {topic}|ابحث عن {topic} في المكتبة|ابحث عن {topic}"}, language)
    found = rng.choice(SENTENCES[language])
    answer = {"en": f"I found this: {found}.", "fr": f"Voici ce que j'ai trouvé : {found}.", "ar": f"وجدت ما يلي: {found}."}
    return capitalised(rng, asked), {"query": topic}, rng.choice([{"documents": [found]}, found]), answer[language]


def ticket(rng, language):
    thing = rng.choice({"en": ["printer", "network", "screen", "keyboard", "password", "server", "phone", "door"], "fr": ["imprimante", "réseau", "écran", "clavier", "mot de passe", "serveur", "téléphone", "porte"],
                        "ar": ["الطابعة", "الشبكة", "الشاشة", "لوحة المفاتيح", "كلمة المرور", "الخادم", "الهاتف", "الباب"]}[language])
    title = rng.choice({"en": [f"{thing} does not work", f"broken {thing}", f"new {thing}"], "fr": [f"panne : {thing}", f"problème de {thing}", f"{thing} à changer"],
                        "ar": [f"عطل في {thing}", f"مشكلة في {thing}", f"تغيير {thing}"]}[language])
    level = rng.choice(["low", "medium", "high"])
    said = {"en": {"low": "low", "medium": "medium", "high": "high"}, "fr": {"low": "basse", "medium": "moyenne", "high": "haute"}, "ar": {"low": "منخفضة", "medium": "متوسطة", "high": "عالية"}}[language][level]
    asked = pick(rng, {"en": f"create a ticket: {title}, {said} priority|open a ticket \"{title}\" with {said} priority|new ticket with {said} priority: {title}",
                       "fr": f"crée un ticket : {title}, priorité {said}|ouvre un ticket « {title} » avec une priorité {said}|nouveau ticket de priorité {said} : {title}",
                       "ar": f"أنشئ تذكرة: {title}، بأولوية {said}|افتح تذكرة «{title}» بأولوية {said}|تذكرة جديدة بأولوية {said}: {title}"}, language)
    number = rng.randint(100, 999)
    answer = {"en": f"Ticket {number} has been created.", "fr": f"Le ticket {number} est créé.", "ar": f"تم إنشاء التذكرة {number}."}
    return capitalised(rng, asked), {"title": title, "priority": level}, rng.choice([{"ticket": number}, {"id": number, "status": "created"}]), answer[language]


def currency(rng, language):
    amount = rng.choice([rng.randint(1, 99), rng.randint(1, 40) * 25])
    source, target = rng.sample(["USD", "EUR", "MAD", "OMR", "SAR", "EGP", "TND", "GBP", "AED", "CHF"], 2)
    value = rng.randint(1, 4000)
    asked = pick(rng, {"en": f"convert {amount} {source} to {target}|how much is {amount} {source} in {target}?|{amount} {source} to {target}",
                       "fr": f"convertis {amount} {source} en {target}|combien font {amount} {source} en {target} ?|{amount} {source} en {target}",
                       "ar": f"حول {amount} {source} إلى {target}|كم يساوي {amount} {source} ب {target}؟|{amount} {source} إلى {target}"}, language)
    answer = {"en": f"{amount} {source} is {value} {target}.", "fr": f"{amount} {source} font {value} {target}.", "ar": f"{amount} {source} يساوي {value} {target}."}
    return capitalised(rng, asked), {"amount": amount, "from": source, "to": target}, rng.choice([{"result": value}, f"{value} {target}"]), answer[language]


def translation(rng, language):
    sentence = rng.randrange(len(SENTENCES["en"]))
    text = SENTENCES[language][sentence]
    target = rng.choice([l for l in LANGUAGES if l != language])
    name = {"en": {"fr": "French", "ar": "Arabic"}, "fr": {"en": "anglais", "ar": "arabe"}, "ar": {"en": "الإنجليزية", "fr": "الفرنسية"}}[language][target]
    asked = pick(rng, {"en": f"translate this sentence into {name}: {text}|use the tool to translate into {name}: {text}", "fr": f"traduis cette phrase en {name} : {text}|utilise l'outil pour traduire en {name} : {text}",
                       "ar": f"ترجم هذه الجملة إلى {name}: {text}|استخدم الأداة للترجمة إلى {name}: {text}"}, language)
    result = SENTENCES[target][sentence]
    return capitalised(rng, asked), {"text": text, "language": {"en": "English", "fr": "French", "ar": "Arabic"}[target]}, result, result


def calculator(rng, language):
    a, b, sign = rng.randint(2, 999), rng.randint(2, 999), rng.choice("+-*/")
    value = {"+": a + b, "-": a - b, "*": a * b, "/": round(a / b, 2)}[sign]
    e = f"{a} {sign} {b}"
    asked = pick(rng, {"en": f"what is {e}?|calculate {e}|compute {e}|how much is {e}?", "fr": f"combien font {e} ?|calcule {e}|quel est le résultat de {e} ?", "ar": f"كم يساوي {e}؟|احسب {e}|ما نتيجة {e}؟"}, language)
    return capitalised(rng, asked), {"expression": e}, rng.choice([{"result": value}, str(value)]), f"{e} = {value}"


def message(rng, language):
    to, text = rng.choice(NAMES[language]), rng.choice(SENTENCES[language])
    asked = pick(rng, {"en": f"send a message to {to}: {text}|tell {to}: {text}|write to {to}: {text}", "fr": f"envoie un message à {to} : {text}|dis à {to} : {text}|écris à {to} : {text}",
                       "ar": f"أرسل رسالة إلى {to}: {text}|قل إلى {to}: {text}|اكتب إلى {to}: {text}"}, language)
    answer = {"en": f"The message has been sent to {to}.", "fr": f"Le message est envoyé à {to}.", "ar": f"تم إرسال الرسالة إلى {to}."}
    return capitalised(rng, asked), {"to": to, "text": text}, rng.choice([{"status": "sent"}, "sent", "ok"]), answer[language]


STRING = {"type": "string"}
TOOLS = [
    {"names": ["get_weather", "get_weather", "get_current_weather", "weather", "current_weather"], "descriptions": ["Get the weather of a city.", "Get the current weather", "Current weather in a given location"],
     "parameters": {"city": (["city", "city", "location", "place"], STRING, "The city")}, "request": weather},
    {"names": ["get_time", "get_time", "current_time", "get_current_time"], "descriptions": ["Get the local time of a city.", "Current time in a city"],
     "parameters": {"city": (["city", "location", "place"], STRING, "The city")}, "request": clock},
    {"names": ["search_documents", "search_documents", "search", "find_documents"], "descriptions": ["Search the documents.", "Search a library of documents"],
     "parameters": {"query": (["query", "query", "q", "text"], STRING, "What to look for")}, "request": search},
    {"names": ["create_ticket", "create_ticket", "open_ticket"], "descriptions": ["Create a support ticket.", "Open a ticket"],
     "parameters": {"title": (["title", "title", "subject"], STRING, "The title"), "priority": (["priority"], {"type": "string", "enum": ["low", "medium", "high"]}, "The priority")}, "request": ticket},
    {"names": ["convert_currency", "convert_currency", "exchange"], "descriptions": ["Convert an amount from one currency to another.", "Currency conversion"],
     "parameters": {"amount": (["amount", "value"], {"type": "number"}, "The amount"), "from": (["from", "source"], STRING, "Currency code"), "to": (["to", "target"], STRING, "Currency code")}, "request": currency},
    {"names": ["translate", "translate", "translate_text"], "descriptions": ["Translate a text.", "Translate a text into a language"],
     "parameters": {"text": (["text"], STRING, "The text"), "language": (["language", "target_language"], STRING, "The target language")}, "request": translation},
    {"names": ["calculator", "calculator", "calculate", "evaluate"], "descriptions": ["Evaluate an arithmetic expression.", "A calculator"],
     "parameters": {"expression": (["expression", "expression", "formula"], STRING, "The expression")}, "request": calculator},
    {"names": ["send_message", "send_message", "send_email"], "descriptions": ["Send a message to a person.", "Send a message"],
     "parameters": {"to": (["to", "recipient"], STRING, "The recipient"), "text": (["text", "message", "body"], STRING, "The text")}, "request": message},
]
