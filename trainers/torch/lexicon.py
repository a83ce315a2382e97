"""Closed word lists of the instruction data, each entry as (English, French, Arabic).

Lists only: how they become conversations is in `instruct.py`, what is said about Falaj is in `about_falaj.py`.
"""

LANGUAGES = ("en", "fr", "ar")

WORDS = [tuple(w.strip() for w in row.split("|")) for row in """
zero|zéro|صفر
one|un|واحد
two|deux|اثنان
three|trois|ثلاثة
four|quatre|أربعة
five|cinq|خمسة
six|six|ستة
seven|sept|سبعة
eight|huit|ثمانية
nine|neuf|تسعة
ten|dix|عشرة
twenty|vingt|عشرون
hundred|cent|مئة
thousand|mille|ألف
Monday|lundi|الاثنين
Tuesday|mardi|الثلاثاء
Wednesday|mercredi|الأربعاء
Thursday|jeudi|الخميس
Friday|vendredi|الجمعة
Saturday|samedi|السبت
Sunday|dimanche|الأحد
January|janvier|يناير
February|février|فبراير
March|mars|مارس
April|avril|أبريل
May|mai|مايو
June|juin|يونيو
July|juillet|يوليو
August|août|أغسطس
September|septembre|سبتمبر
October|octobre|أكتوبر
November|novembre|نوفمبر
December|décembre|ديسمبر
red|rouge|أحمر
blue|bleu|أزرق
green|vert|أخضر
yellow|jaune|أصفر
white|blanc|أبيض
black|noir|أسود
brown|marron|بني
orange|orange|برتقالي
pink|rose|وردي
grey|gris|رمادي
water|eau|ماء
bread|pain|خبز
milk|lait|حليب
coffee|café|قهوة
tea|thé|شاي
salt|sel|ملح
sugar|sucre|سكر
apple|pomme|تفاحة
rice|riz|أرز
fish|poisson|سمك
meat|viande|لحم
honey|miel|عسل
oil|huile|زيت
house|maison|بيت
door|porte|باب
window|fenêtre|نافذة
table|table|طاولة
chair|chaise|كرسي
book|livre|كتاب
pen|stylo|قلم
school|école|مدرسة
street|rue|شارع
city|ville|مدينة
village|village|قرية
country|pays|بلد
garden|jardin|حديقة
market|marché|سوق
hospital|hôpital|مستشفى
bank|banque|بنك
university|université|جامعة
car|voiture|سيارة
train|train|قطار
boat|bateau|قارب
airport|aéroport|مطار
key|clé|مفتاح
letter|lettre|رسالة
father|père|أب
mother|mère|أم
brother|frère|أخ
sister|sœur|أخت
son|fils|ابن
daughter|fille|ابنة
friend|ami|صديق
doctor|médecin|طبيب
teacher|professeur|معلم
king|roi|ملك
child|enfant|طفل
man|homme|رجل
woman|femme|امرأة
hand|main|يد
head|tête|رأس
eye|œil|عين
heart|cœur|قلب
cat|chat|قط
dog|chien|كلب
horse|cheval|حصان
bird|oiseau|طائر
lion|lion|أسد
camel|chameau|جمل
sun|soleil|شمس
moon|lune|قمر
star|étoile|نجمة
sea|mer|بحر
river|fleuve|نهر
mountain|montagne|جبل
desert|désert|صحراء
tree|arbre|شجرة
flower|fleur|زهرة
rain|pluie|مطر
wind|vent|ريح
fire|feu|نار
snow|neige|ثلج
day|jour|يوم
night|nuit|ليل
morning|matin|صباح
evening|soir|مساء
week|semaine|أسبوع
month|mois|شهر
year|année|سنة
peace|paix|سلام
love|amour|حب
work|travail|عمل
music|musique|موسيقى
language|langue|لغة
question|question|سؤال
answer|réponse|جواب
big|grand|كبير
small|petit|صغير
new|nouveau|جديد
old|vieux|قديم
good|bon|جيد
yes|oui|نعم
no|non|لا
hello|bonjour|مرحبا
thank you|merci|شكرا
please|s'il vous plaît|من فضلك
goodbye|au revoir|مع السلامة
""".strip().splitlines()]

# country (en, fr, ar), capital (en, fr, ar)
CAPITALS = [tuple(tuple(c.strip() for c in half.split(",")) for half in row.split("|")) for row in """
France,France,فرنسا|Paris,Paris,باريس
Morocco,Maroc,المغرب|Rabat,Rabat,الرباط
Algeria,Algérie,الجزائر|Algiers,Alger,الجزائر العاصمة
Tunisia,Tunisie,تونس|Tunis,Tunis,تونس العاصمة
Libya,Libye,ليبيا|Tripoli,Tripoli,طرابلس
Egypt,Égypte,مصر|Cairo,Le Caire,القاهرة
Sudan,Soudan,السودان|Khartoum,Khartoum,الخرطوم
Mauritania,Mauritanie,موريتانيا|Nouakchott,Nouakchott,نواكشوط
Senegal,Sénégal,السنغال|Dakar,Dakar,داكار
Mali,Mali,مالي|Bamako,Bamako,باماكو
Niger,Niger,النيجر|Niamey,Niamey,نيامي
Nigeria,Nigeria,نيجيريا|Abuja,Abuja,أبوجا
Kenya,Kenya,كينيا|Nairobi,Nairobi,نيروبي
Ethiopia,Éthiopie,إثيوبيا|Addis Ababa,Addis-Abeba,أديس أبابا
Oman,Oman,عمان|Muscat,Mascate,مسقط
Saudi Arabia,Arabie saoudite,السعودية|Riyadh,Riyad,الرياض
Qatar,Qatar,قطر|Doha,Doha,الدوحة
Kuwait,Koweït,الكويت|Kuwait City,Koweït,مدينة الكويت
Bahrain,Bahreïn,البحرين|Manama,Manama,المنامة
United Arab Emirates,Émirats arabes unis,الإمارات|Abu Dhabi,Abou Dabi,أبوظبي
Yemen,Yémen,اليمن|Sanaa,Sanaa,صنعاء
Iraq,Irak,العراق|Baghdad,Bagdad,بغداد
Syria,Syrie,سوريا|Damascus,Damas,دمشق
Lebanon,Liban,لبنان|Beirut,Beyrouth,بيروت
Jordan,Jordanie,الأردن|Amman,Amman,عمّان
Turkey,Turquie,تركيا|Ankara,Ankara,أنقرة
Iran,Iran,إيران|Tehran,Téhéran,طهران
Pakistan,Pakistan,باكستان|Islamabad,Islamabad,إسلام آباد
India,Inde,الهند|New Delhi,New Delhi,نيودلهي
China,Chine,الصين|Beijing,Pékin,بكين
Japan,Japon,اليابان|Tokyo,Tokyo,طوكيو
Indonesia,Indonésie,إندونيسيا|Jakarta,Jakarta,جاكرتا
Russia,Russie,روسيا|Moscow,Moscou,موسكو
Ukraine,Ukraine,أوكرانيا|Kyiv,Kiev,كييف
Germany,Allemagne,ألمانيا|Berlin,Berlin,برلين
Italy,Italie,إيطاليا|Rome,Rome,روما
Spain,Espagne,إسبانيا|Madrid,Madrid,مدريد
Portugal,Portugal,البرتغال|Lisbon,Lisbonne,لشبونة
United Kingdom,Royaume-Uni,المملكة المتحدة|London,Londres,لندن
Ireland,Irlande,أيرلندا|Dublin,Dublin,دبلن
Belgium,Belgique,بلجيكا|Brussels,Bruxelles,بروكسل
Netherlands,Pays-Bas,هولندا|Amsterdam,Amsterdam,أمستردام
Switzerland,Suisse,سويسرا|Bern,Berne,برن
Austria,Autriche,النمسا|Vienna,Vienne,فيينا
Greece,Grèce,اليونان|Athens,Athènes,أثينا
Poland,Pologne,بولندا|Warsaw,Varsovie,وارسو
Sweden,Suède,السويد|Stockholm,Stockholm,ستوكهولم
Norway,Norvège,النرويج|Oslo,Oslo,أوسلو
Canada,Canada,كندا|Ottawa,Ottawa,أوتاوا
United States,États-Unis,الولايات المتحدة|Washington,Washington,واشنطن
Mexico,Mexique,المكسيك|Mexico City,Mexico,مكسيكو
Brazil,Brésil,البرازيل|Brasília,Brasilia,برازيليا
Argentina,Argentine,الأرجنتين|Buenos Aires,Buenos Aires,بوينس آيرس
""".strip().splitlines()]

# French needs "de la France", "du Maroc", "de l'Algérie": the masculine and plural ones, the rest is feminine or by vowel.
FRENCH_DU = {"Maroc", "Soudan", "Sénégal", "Mali", "Niger", "Nigeria", "Kenya", "Qatar", "Koweït", "Yémen", "Liban", "Pakistan",
             "Japon", "Portugal", "Royaume-Uni", "Canada", "Mexique", "Brésil"}
FRENCH_DES = {"Émirats arabes unis", "Pays-Bas", "États-Unis"}
FRENCH_BARE = {"Oman", "Bahreïn"}

EXTRA_CITIES = [tuple(row.split(",")) for row in """
Marseille,Marseille,مرسيليا
Lyon,Lyon,ليون
Toulouse,Toulouse,تولوز
Bordeaux,Bordeaux,بوردو
Lille,Lille,ليل
Nice,Nice,نيس
Casablanca,Casablanca,الدار البيضاء
Fez,Fès,فاس
Marrakesh,Marrakech,مراكش
Tangier,Tanger,طنجة
Oran,Oran,وهران
Constantine,Constantine,قسنطينة
Sfax,Sfax,صفاقس
Alexandria,Alexandrie,الإسكندرية
Aswan,Assouan,أسوان
Nizwa,Nizwa,نزوى
Salalah,Salalah,صلالة
Dubai,Dubaï,دبي
Jeddah,Djeddah,جدة
Mecca,La Mecque,مكة
Aleppo,Alep,حلب
Basra,Bassora,البصرة
Mosul,Mossoul,الموصل
Istanbul,Istanbul,إسطنبول
Barcelona,Barcelone,برشلونة
Geneva,Genève,جنيف
Montreal,Montréal,مونتريال
New York,New York,نيويورك
Munich,Munich,ميونخ
Milan,Milan,ميلانو
""".strip().splitlines()]

NAMES = {
    "en": "Alice Emma Oliver James Sarah Daniel Lucy Henry Amina Omar Layla Yusuf Maria David Grace Adam Noah Sophia Sam Rachel".split(),
    "fr": "Camille Claire Louis Jules Hugo Léa Chloé Amélie Karim Fatima Mehdi Nadia Antoine Marie Pierre Inès Sofia Paul Élise Rachid".split(),
    "ar": "أحمد محمد فاطمة عائشة خالد ليلى يوسف مريم عمر سارة كريم نور هدى سلمى إبراهيم زينب علي سعيد ريم طارق".split(),
}

FREE_WORDS = {
    "en": ("apple river stone light paper silver summer winter forest bridge ocean mirror candle garden pencil basket orange castle window letter "
           "market village doctor teacher music dream cloud thunder island harbour engine signal number table copper").split(),
    "fr": ("pomme rivière pierre lumière papier argent été hiver forêt pont océan miroir bougie jardin crayon panier orange château fenêtre lettre "
           "marché village médecin musique rêve nuage tonnerre île port moteur signal nombre table cuivre").split(),
    "ar": ("تفاحة نهر حجر ضوء ورق فضة صيف شتاء غابة جسر محيط مرآة شمعة حديقة قلم سلة برتقال قلعة نافذة رسالة سوق قرية طبيب معلم موسيقى حلم سحابة رعد "
           "جزيرة ميناء محرك إشارة رقم طاولة نحاس").split(),
}

SENTENCES = {
    "en": ["the sun is warm today", "we walk to the market", "the child reads a book", "my brother lives in a small house", "the train leaves at nine",
           "she writes a long letter", "the garden is full of flowers", "water runs under the old bridge", "he drinks coffee in the morning",
           "the doctor opens the door", "birds sing", "the sea is calm", "our teacher is kind", "they work every day in the field", "good bread is simple"],
    "fr": ["le soleil est chaud aujourd'hui", "nous marchons vers le marché", "cet enfant lit un livre", "mon frère habite une petite maison",
           "le train part à neuf heures", "elle écrit une longue lettre", "le jardin est plein de fleurs", "le fleuve coule sous le vieux pont",
           "il boit son café le matin", "le médecin ouvre la porte", "les oiseaux chantent", "la mer est calme", "notre professeur est gentil",
           "ils travaillent chaque jour", "le bon pain est simple"],
    "ar": ["الشمس دافئة اليوم", "نمشي إلى السوق", "يقرأ الطفل كتابا", "يسكن أخي في بيت صغير", "يغادر القطار في التاسعة", "تكتب رسالة طويلة",
           "الحديقة مليئة بالزهور", "يجري الماء تحت الجسر القديم", "يشرب القهوة في الصباح", "يفتح الطبيب الباب", "الطيور تغني", "البحر هادئ",
           "معلمنا لطيف", "يعملون كل يوم في الحقل", "الخبز الجيد بسيط"],
}

# What the model is asked and cannot know: it says so.
UNKNOWN_TOPICS = {
    "en": ("quantum physics|the stock market|the French Revolution|black holes|the price of gold|football results|the next election|DNA|the Roman Empire|"
           "chess openings|vaccines|climate change|tax law|the theory of relativity|Shakespeare|the Second World War|jazz|inflation|volcanoes|"
           "photosynthesis|cryptography|the human brain|Napoleon|machine learning|the Olympic Games|cancer|marketing|democracy|electric cars").split("|"),
    "fr": ("la physique quantique|la Bourse|la Révolution française|les trous noirs|le prix de l'or|les résultats du football|les élections|l'ADN|"
           "l'Empire romain|les échecs|les vaccins|le climat|le droit fiscal|la relativité|Molière|la Seconde Guerre mondiale|le jazz|l'inflation|"
           "les volcans|la photosynthèse|la cryptographie|le cerveau humain|Napoléon|l'apprentissage automatique|les Jeux olympiques|le cancer|"
           "le marketing|la démocratie|les voitures électriques").split("|"),
    "ar": ("فيزياء الكم|سوق الأسهم|الثورة الفرنسية|الثقوب السوداء|سعر الذهب|نتائج كرة القدم|الانتخابات القادمة|الحمض النووي|الإمبراطورية الرومانية|"
           "الشطرنج|اللقاحات|تغير المناخ|قانون الضرائب|نظرية النسبية|المتنبي|الحرب العالمية الثانية|موسيقى الجاز|التضخم|البراكين|التمثيل الضوئي|"
           "التشفير|دماغ الإنسان|نابليون|تعلم الآلة|الألعاب الأولمبية|السرطان|التسويق|الديمقراطية|السيارات الكهربائية").split("|"),
}
