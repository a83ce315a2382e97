//! A table: every message for people, in English, French and Arabic. Numbered gaps `{0}` are filled by `with`. Arabic
//! sentences keep commands, paths and names in backticks, so that a terminal's bidirectional layout stays readable.

use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lang {
    En,
    Fr,
    Ar,
}

impl Lang {
    /// A code as written in `--lang`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "en" => Some(Self::En),
            "fr" => Some(Self::Fr),
            "ar" => Some(Self::Ar),
            _ => None,
        }
    }

    /// From a locale such as `ar_MA.UTF-8`; English where we do not speak it.
    pub fn of_locale(locale: &str) -> Self {
        let language = locale.split(['_', '-', '.', '@']).next().unwrap_or("");
        Self::parse(&language.to_ascii_lowercase()).unwrap_or(Self::En)
    }

    pub fn code(self) -> &'static str {
        ["en", "fr", "ar"][self as usize]
    }
}

static LANG: OnceLock<Lang> = OnceLock::new();

/// Once, at start. Before it, messages are English.
pub fn set(lang: Lang) {
    // A second call can only come from a test in this process; the first one stays.
    let _ = LANG.set(lang);
}

/// English until [`set`] was called.
pub fn lang() -> Lang {
    LANG.get().copied().unwrap_or(Lang::En)
}

impl Word {
    pub fn text(self) -> &'static str {
        self.texts()[lang() as usize]
    }

    /// `{0}`, `{1}`… replaced, in one pass: what is filled in is not searched again.
    pub fn with(self, gaps: &[&str]) -> String {
        fill(self.text(), gaps)
    }
}

fn fill(template: &str, gaps: &[&str]) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let (before, gap) = rest.split_at(open);
        out.push_str(before);
        let digit = gap[1..].chars().next().and_then(|c| c.to_digit(10));
        match digit {
            Some(n) if gap[2..].starts_with('}') => {
                out.push_str(gaps.get(n as usize).expect("the caller fills every gap"));
                rest = &gap[3..];
            }
            _ => {
                out.push('{');
                rest = &gap[1..];
            }
        }
    }
    out + rest
}

macro_rules! words {
    ($($name:ident: $en:literal, $fr:literal, $ar:literal;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Word { $($name,)* }

        impl Word {
            fn texts(self) -> [&'static str; 3] {
                match self { $(Self::$name => [$en, $fr, $ar],)* }
            }

            #[cfg(test)]
            const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

words! {
    // Everywhere
    Error: "error:", "erreur :", "خطأ:";
    NextStep: "  next:", "  à faire :", "  الخطوة التالية:";

    // Configuration
    SettingUnknown: "unknown setting `{0}`", "réglage inconnu `{0}`", "إعداد غير معروف `{0}`";
    SettingType:
        "`{0}` is a {1}; write it like {2}",
        "`{0}` est de type {1} ; écrivez-le comme {2}",
        "نوع `{0}` هو {1}؛ اكتبه هكذا: {2}";
    SettingBad: "{0}: `{1}` cannot be `{2}`", "{0} : `{1}` ne peut pas être `{2}`", "{0}: لا يمكن أن يكون `{1}` هو `{2}`";
    SettingBadNext: "expected: {0}", "attendu : {0}", "المتوقَّع: {0}";
    DidYouMean: "did you mean `{0}`?", "vouliez-vous dire `{0}` ?", "هل تقصد `{0}`؟";

    // Data directory and key
    ChooseDataDir:
        "choose a directory that you may write to: `--data DIR`",
        "choisissez un répertoire où vous pouvez écrire : `--data DIR`",
        "اختر مجلدًا يمكنك الكتابة فيه: `--data DIR`";
    DataDirLocked:
        "another falaj (process {1}) already serves from `{0}`",
        "un autre falaj (processus {1}) sert déjà depuis `{0}`",
        "يعمل falaj آخر (العملية {1}) على المجلد `{0}`";
    DiskFull: "the disk of `{0}` is full: make space on it, then start again", "le disque de `{0}` est plein : libérez de l'espace, puis redémarrez", "قرص `{0}` ممتلئ: أخلِ مساحة فيه ثم ابدأ من جديد";
    DataDirLockedNext:
        "stop it, or give this one a directory of its own: `--data DIR`",
        "arrêtez-le, ou donnez à celui-ci son propre répertoire : `--data DIR`",
        "أوقفه، أو أعط هذا مجلدًا خاصًا به: `--data DIR`";
    KeyFileBad: "`{0}` does not hold a key", "`{0}` ne contient pas de clé", "لا يحتوي `{0}` على مفتاح";
    KeyFileBadNext:
        "delete the file; the next start makes a new key",
        "supprimez le fichier ; le prochain démarrage crée une nouvelle clé",
        "احذف الملف؛ سيُنشأ مفتاح جديد عند التشغيل التالي";
    KeyFileOpen:
        "warning: others on this machine may read `{0}` (mode {1}); `chmod 600` closes it",
        "attention : d'autres utilisateurs peuvent lire `{0}` (mode {1}) ; `chmod 600` le referme",
        "تحذير: يستطيع آخرون قراءة `{0}` (الصلاحيات {1})؛ الأمر `chmod 600` يغلقه";

    // up
    UpReady: "Falaj is ready at {0}", "Falaj est prêt à l'adresse {0}", "فلج جاهز على العنوان {0}";
    UpModels: "models", "modèles", "النماذج";
    UpKey: "key", "clé", "المفتاح";
    UpNewKey:
        "made now, readable by you only",
        "créée à l'instant, lisible par vous seul",
        "أُنشئ الآن، ولا يقرؤه سواك";
    UpTry: "try it:", "essayez :", "جرّبه:";
    UpOfficial:
        "official clients: base URL {0} (OpenAI), {1} (Mistral, Anthropic)",
        "clients officiels : URL de base {0} (OpenAI), {1} (Mistral, Anthropic)",
        "العملاء الرسميون: العنوان الأساس {0} لـ OpenAI و{1} لـ Mistral وAnthropic";
    UpStopHint: "Ctrl-C to stop", "Ctrl-C pour arrêter", "اضغط Ctrl-C للإيقاف";
    UpHello: "Hello! Who are you?", "Bonjour ! Qui es-tu ?", "مرحبًا! من أنت؟";
    UpOpenToNetwork:
        "warning: {0} is reachable from the network, and keys travel in clear; put TLS in front",
        "attention : {0} est joignable depuis le réseau, et les clés y circulent en clair ; placez TLS devant",
        "تحذير: {0} متاح من الشبكة والمفاتيح تُرسل دون تشفير؛ ضع TLS أمامه";
    UpStopping:
        "finishing the answers under way; once more stops at once",
        "fin des réponses en cours ; encore une fois pour arrêter tout de suite",
        "نُكمل الإجابات الجارية؛ اضغط مرة أخرى للإيقاف فورًا";
    UpStopped: "stopped", "arrêté", "توقّف";
    UpLedger: "the ledger does not open", "le registre ne s'ouvre pas", "تعذّر فتح السجل";
    UpLedgerDamaged:
        "nothing was changed; restore the whole of `{0}` from one copy, and compare it with an export or with what the witnesses have",
        "rien n'a été modifié ; restaurez tout `{0}` depuis une même copie, et comparez-la à un export ou à ce qu'ont les témoins",
        "لم يُغيَّر شيء؛ استعد `{0}` كله من نسخة واحدة، وقارنها بنسخة مصدَّرة أو بما لدى الشهود";
    UpGovernance: "the gate cannot be set up", "la porte d'accès ne peut pas être mise en place", "تعذّر إعداد البوابة";
    UpAddressTaken: "something already listens on {0}", "quelque chose écoute déjà sur {0}", "يستمع برنامج آخر على {0}";
    UpAddressTakenNext:
        "stop it, or choose another port: `falaj up --listen {0}`",
        "arrêtez-le, ou choisissez un autre port : `falaj up --listen {0}`",
        "أوقفه، أو اختر منفذًا آخر: `falaj up --listen {0}`";
    UpAddressOther: "cannot listen on {0}: {1}", "impossible d'écouter sur {0} : {1}", "تعذّر الاستماع على {0}: {1}";
    UpAddressOtherNext:
        "choose an address of this machine: `falaj up --listen 127.0.0.1:8080`",
        "choisissez une adresse de cette machine : `falaj up --listen 127.0.0.1:8080`",
        "اختر عنوانًا من عناوين هذا الجهاز: `falaj up --listen 127.0.0.1:8080`";

    // Models
    ModelUnknown: "no model is called `{0}`", "aucun modèle ne s'appelle `{0}`", "لا يوجد نموذج باسم `{0}`";
    ModelUnknownNext:
        "`falaj model list` shows what is here; `falaj model pull` and `falaj model import` add more",
        "`falaj model list` montre ce qui est là ; `falaj model pull` et `falaj model import` en ajoutent",
        "يعرض `falaj model list` الموجود؛ ويضيف `falaj model pull` و`falaj model import` المزيد";
    ModelBuiltin:
        "`{0}` is built in; it cannot be removed or replaced",
        "`{0}` est intégré ; il ne peut être ni supprimé ni remplacé",
        "`{0}` مدمج في البرنامج؛ لا يمكن حذفه أو استبداله";
    ModelBuiltinNext: "choose another name: `--name NAME`", "choisissez un autre nom : `--name NAME`", "اختر اسمًا آخر: `--name NAME`";
    BuiltinDamaged:
        "the built-in model is not the one this program was made with: its SHA-256 is {0}, not {1}",
        "le modèle intégré n'est pas celui avec lequel ce programme a été fait : son SHA-256 est {0} et non {1}",
        "النموذج المدمج ليس الذي صُنع به هذا البرنامج: بصمته SHA-256 هي {0} لا {1}";
    BuiltinDamagedNext:
        "fetch the program again; when building, `sha256sum` in `models/falaj-seed` makes the digest file anew",
        "téléchargez de nouveau le programme ; pour compiler, `sha256sum` dans `models/falaj-seed` refait le fichier d'empreinte",
        "احصل على البرنامج من جديد؛ وعند البناء يعيد `sha256sum` في `models/falaj-seed` ملف البصمة";
    ModelLoading: "loading {0}", "chargement de {0}", "تحميل {0}";
    ModelNoRoomNow:
        "{0} stays on disk until it is asked for: it takes {1}, and {2} are left of the {3} for models",
        "{0} reste sur le disque jusqu'à la première demande : il prend {1}, et il reste {2} sur {3} pour les modèles",
        "يبقى {0} على القرص حتى يُطلب: يأخذ {1} والمتبقي {2} من {3} المخصصة للنماذج";
    AdapterBaseUnknown:
        "`{0}` is an adapter, and the model that it was made for (`{1}`) is not here",
        "`{0}` est un adaptateur, et le modèle pour lequel il a été fait (`{1}`) n'est pas ici",
        "إن `{0}` مُكيِّف، والنموذج الذي صُنع له (`{1}`) ليس هنا";
    AdapterBaseUnknownNext:
        "add that model first, or name it: `falaj model import FOLDER --base NAME`",
        "ajoutez d'abord ce modèle, ou nommez-le : `falaj model import FOLDER --base NAME`",
        "أضف ذلك النموذج أولًا، أو سمِّه: `falaj model import FOLDER --base NAME`";
    AdapterBaseChanged:
        "`{0}` is an adapter, and `{1}` is not the model that it was made for (whose digest is {2}); bring that back, or train it again",
        "`{0}` est un adaptateur, et `{1}` n'est pas le modèle pour lequel il a été fait (d'empreinte {2}) ; remettez celui-ci, ou refaites l'entraînement",
        "إن `{0}` مُكيِّف، و`{1}` ليس النموذج الذي صُنع له (بصمته {2})؛ أعد ذلك النموذج أو أعد التدريب";
    DraftVocabulary:
        "the draft model `{0}` has another vocabulary than `{1}` (token {2})",
        "le modèle ébauche `{0}` n'a pas le vocabulaire de `{1}` (jeton {2})",
        "للنموذج المسوِّد `{0}` مفردات غير مفردات `{1}` (الرمز {2})";
    DraftVocabularyNext:
        "take a draft model of the same family, or remove it from `engine.draft_models`",
        "prenez une ébauche de la même famille, ou retirez-la de `engine.draft_models`",
        "خذ نموذجًا مسوِّدًا من العائلة نفسها، أو احذفه من `engine.draft_models`";
    ModelLoadCancelled: "nobody waits for it any more", "plus personne ne l'attend", "لم يعد أحد ينتظره";
    ModelImporting: "adding {0}", "ajout de {0}", "إضافة {0}";
    ModelOptimizing: "rewriting {0}", "réécriture de {0}", "إعادة كتابة {0}";
    OptimizedModel:
        "`{0}` starts without repacking: `falaj up --model {0}`",
        "`{0}` démarre sans réarrangement : `falaj up --model {0}`",
        "يبدأ `{0}` دون إعادة ترتيب: `falaj up --model {0}`";
    OptimizedFile:
        "written to `{0}`; `falaj up --model {0}` takes it",
        "écrit dans `{0}` ; `falaj up --model {0}` l'accepte",
        "كُتب في `{0}`؛ ويقبله `falaj up --model {0}`";
    ModelExporting: "writing {0}", "écriture de {0}", "كتابة {0}";
    ModelExported:
        "{0}: {1} (logits within {2} of the original's)",
        "{0} : {1} (logits à {2} près de l'original)",
        "{0}: `{1}` (فرق القيم عن الأصل {2})";
    ExportOutIsFile:
        "`{0}` is a file, and this format is a folder",
        "`{0}` est un fichier, et ce format est un dossier",
        "`{0}` ملف، وهذه الصيغة مجلد";
    ExportOutTaken:
        "`{0}` is there already", "`{0}` existe déjà", "`{0}` موجود مسبقًا";
    ExportOutNext:
        "name a path that is free; GGUF formats (f16, q8_0, q4_0, q4_k_m) end in .gguf, safetensors does not",
        "indiquez un chemin libre ; les formats GGUF (f16, q8_0, q4_0, q4_k_m) finissent par .gguf, pas safetensors",
        "اختر مسارًا غير مستعمل؛ صيغ GGUF (f16 وq8_0 وq4_0 وq4_k_m) تنتهي بـ `.gguf` وsafetensors لا تنتهي به";
    OptimizeOutBad:
        "`{0}` does not end in `.gguf`",
        "`{0}` ne se termine pas par `.gguf`",
        "لا ينتهي `{0}` بـ `.gguf`";
    OptimizeOutBadNext:
        "models are found by that ending: `--out FILE.gguf`",
        "c'est à cette fin de nom que les modèles se trouvent : `--out FICHIER.gguf`",
        "تُعرف النماذج بهذه النهاية: `--out FILE.gguf`";
    StateLoaded: "in memory", "en mémoire", "في الذاكرة";
    StateLoading: "loading", "en chargement", "قيد التحميل";
    StateLeaving: "leaving memory", "quitte la mémoire", "يغادر الذاكرة";
    StateOnDisk: "on disk", "sur le disque", "على القرص";
    ModelHashing: "checking {0}", "vérification de {0}", "التحقق من {0}";
    ModelImported: "`{0}` is ready: `falaj run {0} \"…\"`", "`{0}` est prêt : `falaj run {0} \"…\"`", "`{0}` جاهز: `falaj run {0} \"…\"`";
    ModelVerified: "{0}: every byte is as recorded", "{0} : chaque octet est conforme", "{0}: كل بايت مطابق للمسجَّل";
    ModelRemoved: "removed `{0}` ({1})", "`{0}` supprimé ({1})", "حُذف `{0}` ({1})";
    ModelNoneHere:
        "only the built-in model is here so far; `falaj model pull OWNER/REPO` fetches another",
        "seul le modèle intégré est présent ; `falaj model pull OWNER/REPO` en télécharge un autre",
        "لا يوجد حتى الآن إلا النموذج المدمج؛ لجلب غيره: `falaj model pull OWNER/REPO`";
    ModelTamperedNext:
        "the file changed since it was added; remove the model and pull or import it again",
        "le fichier a changé depuis son ajout ; supprimez le modèle puis ajoutez-le de nouveau",
        "تغيّر الملف بعد إضافته؛ احذف النموذج ثم أضفه من جديد";

    // Pull
    PullRepositoryBad:
        "`{0}` is no repository",
        "`{0}` n'est pas un dépôt",
        "`{0}` ليس اسم مستودع";
    PullRepositoryBadNext:
        "write OWNER/REPO or OWNER/REPO:FILE.gguf",
        "écrivez OWNER/REPO ou OWNER/REPO:FILE.gguf",
        "اكتب OWNER/REPO أو OWNER/REPO:FILE.gguf";
    PullNotFound:
        "`{0}` is not at {1}, or asks for a token",
        "`{0}` n'est pas sur {1}, ou demande un jeton",
        "`{0}` غير موجود في {1} أو يتطلب رمز دخول";
    PullNotFoundNext:
        "check the name and `--revision`; for a private or gated one, `--token-file FILE`",
        "vérifiez le nom et `--revision` ; pour un dépôt privé ou restreint, `--token-file FILE`",
        "تحقق من الاسم ومن `--revision`؛ وللمستودع الخاص أو المقيّد: `--token-file FILE`";
    PullGated:
        "{1} refuses `{0}` to this token (status {2})",
        "{1} refuse `{0}` à ce jeton (statut {2})",
        "يرفض {1} إعطاء `{0}` لهذا الرمز (الحالة {2})";
    PullGatedNext:
        "accept the licence on the repository's page, then give a token: `--token-file FILE`",
        "acceptez la licence sur la page du dépôt, puis donnez un jeton : `--token-file FILE`",
        "اقبل الرخصة في صفحة المستودع ثم أعط رمز دخول: `--token-file FILE`";
    PullUnreachable: "cannot reach {0}: {1}", "{0} est injoignable : {1}", "تعذّر الوصول إلى {0}: {1}";
    PullUnreachableNext:
        "check the network or choose a mirror with `--endpoint URL`; what was fetched is kept, and the same command resumes",
        "vérifiez le réseau ou choisissez un miroir avec `--endpoint URL` ; ce qui est déjà reçu est gardé et la même commande reprend",
        "تحقق من الشبكة أو اختر مرآة بـ `--endpoint URL`؛ ما وصل محفوظ، والأمر نفسه يكمل من حيث توقف";
    PullStatus: "{0} answered {1} for `{2}`", "{0} a répondu {1} pour `{2}`", "أجاب {0} بالحالة {1} عن `{2}`";
    PullBadAnswer:
        "{0} did not answer as a model hub: {1}",
        "{0} n'a pas répondu comme un dépôt de modèles : {1}",
        "لم يُجب {0} كما يجيب مستودع نماذج: {1}";
    PullBadAnswerNext:
        "check the address given with `--endpoint` or HF_ENDPOINT",
        "vérifiez l'adresse donnée par `--endpoint` ou HF_ENDPOINT",
        "تحقق من العنوان المعطى في `--endpoint` أو HF_ENDPOINT";
    PullCut: "`{0}` was cut at {1} of {2}", "`{0}` s'est interrompu à {1} sur {2}", "انقطع `{0}` عند {1} من {2}";
    PullCutNext:
        "run the same command again; it resumes there",
        "relancez la même commande ; elle reprend là",
        "أعد الأمر نفسه؛ سيكمل من هناك";
    PullMismatch:
        "the bytes of `{0}` have {1}, the hub lists {2}",
        "les octets de `{0}` donnent {1}, le dépôt annonce {2}",
        "بصمة بايتات `{0}` هي {1} والمعلن {2}";
    PullMismatchNext:
        "the file was deleted; pull again, and if it repeats, ask whoever runs the hub or mirror",
        "le fichier a été supprimé ; recommencez, et si cela persiste, prévenez l'exploitant du dépôt ou du miroir",
        "حُذف الملف؛ أعد الجلب، وإن تكرر ذلك فراجع القائم على المستودع أو المرآة";
    PullNoWeights:
        "`{0}` has no weights that Falaj reads (safetensors or GGUF)",
        "`{0}` n'a pas de poids que Falaj sait lire (safetensors ou GGUF)",
        "ليس في `{0}` أوزان يقرؤها Falaj (safetensors أو GGUF)";
    PullNoWeightsNext:
        "choose a repository with one of these formats; pickle files (`.bin`, `.pt`) can run code and are never loaded",
        "choisissez un dépôt dans l'un de ces formats ; les fichiers pickle (`.bin`, `.pt`) peuvent exécuter du code et ne sont jamais chargés",
        "اختر مستودعًا بإحدى هاتين الصيغتين؛ فملفات pickle (`.bin` و`.pt`) قد تنفّذ برامج ولا تُحمَّل أبدًا";
    PullChooseFile: "`{0}` has several GGUF files", "`{0}` contient plusieurs fichiers GGUF", "في `{0}` عدة ملفات GGUF";
    PullChooseFileNext: "name one: {0}", "choisissez-en un : {0}", "سمِّ واحدًا منها: {0}";
    PullNoFile: "`{0}` has no file `{1}`", "`{0}` n'a pas de fichier `{1}`", "ليس في `{0}` ملف باسم `{1}`";
    PullNoSpace:
        "{0} more are needed, and {1} are free in `{2}`",
        "il manque {0}, et {1} sont libres dans `{2}`",
        "يلزم {0} إضافية والمتاح {1} في `{2}`";
    PullNoSpaceNext:
        "free some space, or choose another disk with `--data DIR`",
        "libérez de l'espace, ou choisissez un autre disque avec `--data DIR`",
        "أفرغ مساحة أو اختر قرصًا آخر بـ `--data DIR`";
    PullUnchecked:
        "warning: the hub lists no digest for `{0}`; only its size was compared",
        "attention : le dépôt n'annonce pas d'empreinte pour `{0}` ; seule sa taille a été comparée",
        "تحذير: لا يعلن المستودع بصمة لـ `{0}`؛ قورن حجمه فقط";

    // Chat
    ChatWelcome:
        "{0}. /help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves.",
        "{0}. /help montre les commandes, Ctrl-C arrête une réponse, Ctrl-D quitte.",
        "{0}. اكتب /help لعرض الأوامر؛ Ctrl-C يوقف الإجابة، وCtrl-D للخروج.";
    ChatHelp:
        "/help            this list\n/reset           forget the conversation\n/system TEXT     instructions for the model; empty removes them\n/model [NAME]    change the model, or list them\n/save FILE       write the conversation as Markdown, or JSON for a .json file\n/retry           answer the last message again\n/exit            leave (or Ctrl-D)\nA line that ends in \\ continues on the next; \"\"\" opens and closes a longer text.",
        "/help            cette liste\n/reset           oublier la conversation\n/system TEXTE    instructions pour le modèle ; vide les retire\n/model [NOM]     changer de modèle, ou en donner la liste\n/save FICHIER    enregistrer la conversation en Markdown, ou en JSON pour un fichier .json\n/retry           répondre de nouveau au dernier message\n/exit            quitter (ou Ctrl-D)\nUne ligne qui finit par \\ continue sur la suivante ; \"\"\" ouvre et ferme un texte plus long.",
        "/help            هذه القائمة\n/reset           انسَ المحادثة\n/system TEXT     تعليمات للنموذج؛ والفراغ يزيلها\n/model [NAME]    غيّر النموذج أو اعرض النماذج\n/save FILE       احفظ المحادثة بصيغة Markdown أو JSON لملف ‎.json\n/retry           أجب عن آخر رسالة من جديد\n/exit            خروج (أو Ctrl-D)\nالسطر المنتهي بـ \\ يتابع في السطر التالي؛ و\"\"\" تفتح نصًا أطول وتغلقه.";
    ChatReset: "the conversation is forgotten", "la conversation est oubliée", "نُسيت المحادثة";
    ChatSystemSet: "instructions set; the conversation starts anew", "instructions notées ; la conversation recommence", "حُفظت التعليمات؛ تبدأ المحادثة من جديد";
    ChatSystemCleared: "no instructions; the conversation starts anew", "plus d'instructions ; la conversation recommence", "لا تعليمات؛ تبدأ المحادثة من جديد";
    ChatSaved: "saved in `{0}`", "enregistré dans `{0}`", "حُفظت في `{0}`";
    ChatSaveHow: "write `/save FILE`", "écrivez `/save FICHIER`", "اكتب `/save FILE`";
    ChatUnknownCommand: "unknown command `{0}`; /help lists them", "commande inconnue `{0}` ; /help en donne la liste", "أمر غير معروف `{0}`؛ اكتب /help لعرض الأوامر";
    ChatNothingToRetry: "there is no message yet", "il n'y a pas encore de message", "لا توجد رسالة بعد";
    ChatStopped: "[stopped]", "[arrêté]", "[أُوقفت]";
    ChatLength: "[cut at the token limit; `--max-tokens` raises it]", "[coupé à la limite ; `--max-tokens` la relève]", "[قُطعت عند حد الرموز؛ ارفعه بـ `--max-tokens`]";
    ChatModelNow: "now talking to {0}", "vous parlez à {0}", "تتحدث الآن مع {0}";
    ChatRefused: "the server answered {0}: {1}", "le serveur a répondu {0} : {1}", "أجاب الخادم {0}: {1}";
    ChatRefusedNext:
        "give its key: `--key-file FILE`",
        "donnez sa clé : `--key-file FICHIER`",
        "أعط مفتاحه: `--key-file FILE`";
    ChatServerGone:
        "no server answers at {0}: {1}",
        "aucun serveur ne répond à {0} : {1}",
        "لا يجيب أي خادم على {0}: {1}";
    ChatServerGoneNext:
        "start one with `falaj up`, or leave out `--url` to load the model here",
        "lancez-en un avec `falaj up`, ou omettez `--url` pour charger le modèle ici",
        "شغّل خادمًا بـ `falaj up`، أو احذف `--url` لتحميل النموذج هنا";
    AnswerCutOff: "the answer broke off", "la réponse s'est interrompue", "انقطعت الإجابة";
    PromptEmpty: "the prompt is empty", "la question est vide", "السؤال فارغ";
    PromptEmptyNext:
        "write it after the model's name, or `-` to read it from standard input",
        "écrivez-la après le nom du modèle, ou `-` pour la lire sur l'entrée standard",
        "اكتبه بعد اسم النموذج، أو `-` لقراءته من المدخل القياسي";

    // Training
    TrainRecipeBad: "the recipe `{0}` cannot be used:\n{1}", "la recette `{0}` est inutilisable :\n{1}", "لا تصلح الوصفة `{0}`:\n{1}";
    TrainRecipeNext:
        "correct these lines; `falaj train RECIPE --print` shows every setting",
        "corrigez ces lignes ; `falaj train RECIPE --print` montre tous les réglages",
        "صحّح هذه الأسطر؛ ويعرض `falaj train RECIPE --print` كل الإعدادات";
    TrainPlan:
        "{0} rows, {1} steps of {2} tokens; results in {3}",
        "{0} lignes, {1} pas de {2} jetons ; résultats dans {3}",
        "{0} من الأسطر و{1} من الخطوات، كل خطوة {2} رمزًا؛ والنتائج في `{3}`";
    TrainExpected:
        "about {0} (h:min:s), by a rate measured on this machine",
        "environ {0} (h:min:s), d'après un débit mesuré sur cette machine",
        "نحو {0} (س:د:ث)، بحسب سرعة مقيسة على هذا الجهاز";
    TrainStep:
        "step {0}/{1}  loss {2}  {3} tokens/s  {4} left  learning rate {5}  memory {6}",
        "pas {0}/{1}  perte {2}  {3} jetons/s  reste {4}  taux {5}  mémoire {6}",
        "خطوة {0}/{1}  الخسارة {2}  {3} رمزًا/ث  بقي {4}  معدل التعلم {5}  الذاكرة {6}";
    TrainLeft: "{0}/{1}  {2} left", "{0}/{1}  reste {2}", "{0}/{1}  بقي {2}";
    TrainLoss: "loss {0} {1}", "perte {0} {1}", "الخسارة {0} {1}";
    TrainLossHeld:
        "loss {0} {1}  held-out {2} ({3} % right)",
        "perte {0} {1}  réservées {2} ({3} % justes)",
        "الخسارة {0} {1}  المحجوزة {2} ({3} ٪ صحيحة)";
    TrainPace:
        "{0} tokens/s  learning rate {1}  memory {2}",
        "{0} jetons/s  taux {1}  mémoire {2}",
        "{0} رمزًا/ث  معدل التعلم {1}  الذاكرة {2}";
    TrainSample: "step {0}: {1}\n    → {2}", "pas {0} : {1}\n    → {2}", "خطوة {0}: {1}\n    ← {2}";
    TrainEnergy: "energy: {0}", "énergie : {0}", "الطاقة: {0}";
    TrainReport: "report and plots: {0}", "rapport et courbes : {0}", "التقرير والرسوم: `{0}`";
    TrainNoRun:
        "`{0}` holds no run with steps",
        "`{0}` ne contient aucun entraînement avec des pas",
        "لا يحتوي `{0}` على تدريب فيه خطوات";
    TrainNoRunNext:
        "give the folder of a run: `falaj train plot DIR`",
        "donnez le dossier d'un entraînement : `falaj train plot DOSSIER`",
        "أعطِ مجلد تدريب: `falaj train plot DIR`";
    ReportSteps: "steps", "pas", "الخطوات";
    ReportLearnt: "tokens learnt from", "jetons appris", "الرموز المتعلَّمة";
    ReportLoss: "training loss, first → last step", "perte d'entraînement, premier → dernier pas", "خسارة التدريب من أول خطوة إلى آخرها";
    ReportHeld: "held-out loss (share of tokens right)", "perte réservée (part de jetons justes)", "الخسارة المحجوزة (نسبة الرموز الصحيحة)";
    ReportTime: "time (h:min:s)", "durée (h:min:s)", "الزمن (س:د:ث)";
    ReportEnergy: "energy (grade: method)", "énergie (classe : méthode)", "الطاقة (الدرجة: الطريقة)";
    ReportCarbon: "emissions (CO2)", "émissions (CO2)", "الانبعاثات (CO2)";
    ReportUnknown: "not known", "inconnue", "غير معروفة";
    ReportResults: "results", "résultats", "النتائج";
    ReportSamples: "What it answered", "Ses réponses", "ما أجاب به";
    PlotStep: "step", "pas", "الخطوة";
    PlotLoss: "loss (nats per token)", "perte (nats par jeton)", "الخسارة (نات لكل رمز)";
    PlotTrain: "training", "entraînement", "التدريب";
    PlotHeld: "held-out", "réservées", "المحجوزة";
    PlotSpeed: "tokens per second", "jetons par seconde", "رموز في الثانية";
    PlotRate: "learning rate", "taux d'apprentissage", "معدل التعلم";
    TrainHeldOut:
        "step {0}: on held-out data loss {1}, {2} % of tokens right",
        "pas {0} : perte {1} sur les données réservées, {2} % de jetons justes",
        "خطوة {0}: الخسارة على البيانات المحجوزة {1}، و{2} ٪ من الرموز صحيحة";
    TrainStopped:
        "stopped after step {0}; the same command goes on there",
        "arrêté après le pas {0} ; la même commande reprend là",
        "توقف بعد الخطوة {0}؛ والأمر نفسه يكمل من هناك";
    TrainExport: "{0}: {1} (logits within {2})", "{0} : {1} (logits à {2} près)", "{0}: `{1}` (فرق القيم {2})";
    TrainDone: "done: `falaj chat {0}`", "terminé : `falaj chat {0}`", "تم: `falaj chat {0}`";
    TrainNameTaken:
        "there is a model `{0}` already, so this one was not added",
        "il existe déjà un modèle `{0}` ; celui-ci n'a pas été ajouté",
        "يوجد نموذج باسم `{0}`، فلم يُضف هذا";
    TrainNameTakenNext:
        "add it under another name: `falaj model import {0} --name NAME`",
        "ajoutez-le sous un autre nom : `falaj model import {0} --name NOM`",
        "أضفه باسم آخر: `falaj model import {0} --name NAME`";

    // Data to learn from
    DataFormat: "format", "format", "الصيغة";
    DataRows: "rows", "lignes", "الأسطر";
    DataRowsOf: "{0} good, {1} bad", "{0} bonnes, {1} mauvaises", "{0} سليمة و{1} معيبة";
    DataTokens: "tokens", "jetons", "الرموز";
    DataTokensOf:
        "{0}; of an example: shortest {1}, median {2}, 95 % up to {3}, longest {4}",
        "{0} ; chaque exemple : de {1} à {4}, médiane {2}, 95 % jusqu'à {3}",
        "{0}؛ لكل مثال: الأقصر {1} والوسيط {2} و95 ٪ حتى {3} والأطول {4}";
    DataLearnt: "learnt", "appris", "ما يُتعلَّم";
    DataLearntOf: "{0} tokens, {1} %", "{0} jetons, {1} %", "{0} رمزًا، {1} ٪";
    DataLong: "longer than {0} tokens", "plus de {0} jetons", "أطول من {0} رمز";
    DataSame: "same as an earlier row", "déjà vues plus haut", "مكررة مما سبق";
    DataLines: "{0} (lines {1})", "{0} (lignes {1})", "{0} (الأسطر {1})";
    DataTime: "time to train", "durée d'entraînement", "زمن التدريب";
    DataTimeGiven:
        "about {0} (h:min:s) for {1} passes at {2} tokens/s, as you said",
        "environ {0} (h:min:s) pour {1} passages à {2} jetons/s, comme indiqué",
        "نحو {0} (س:د:ث) لعدد {1} من المرات بسرعة {2} رمزًا في الثانية كما ذكرت";
    DataTimeLast:
        "about {0} (h:min:s) for {1} passes at {2} tokens/s, as the last job on this model",
        "environ {0} (h:min:s) pour {1} passages à {2} jetons/s, comme le dernier entraînement de ce modèle",
        "نحو {0} (س:د:ث) لعدد {1} من المرات بسرعة {2} رمزًا في الثانية كما في آخر تدريب لهذا النموذج";
    DataTimeMeasured:
        "about {0} (h:min:s) for {1} passes at {2} tokens/s, measured just now by a few steps",
        "environ {0} (h:min:s) pour {1} passages à {2} jetons/s, mesurés à l'instant sur quelques pas",
        "نحو {0} (س:د:ث) لعدد {1} من المرات بسرعة {2} رمزًا في الثانية قيست الآن ببضع خطوات";
    DataLine: "line {0}: {1}", "ligne {0} : {1}", "السطر {0}: {1}";
    DataMoreLines: "and {0} more bad lines", "et {0} autres lignes mauvaises", "و{0} من الأسطر المعيبة الأخرى";
    DataBad:
        "`{0}`: {1} rows cannot be learnt from",
        "`{0}` : {1} lignes ne peuvent pas être apprises",
        "`{0}`: تعذّر التعلم من {1} من الأسطر";
    DataBadNext:
        "correct these lines or take them out, and check again",
        "corrigez ces lignes ou retirez-les, puis vérifiez de nouveau",
        "صحّح هذه الأسطر أو احذفها ثم أعد الفحص";
    DataEmpty: "`{0}` has no rows", "`{0}` ne contient aucune ligne", "لا أسطر في `{0}`";
    DataEmptyNext:
        "write one JSON object a line, such as {\"text\": \"…\"}",
        "écrivez un objet JSON par ligne, comme {\"text\": \"…\"}",
        "اكتب كائن JSON في كل سطر، مثل {\"text\": \"…\"}";
    FormatText: "text", "texte", "نص";
    FormatChat: "chat", "conversation", "محادثة";
    FormatCompletion: "prompt and completion", "invite et suite", "بداية وتتمة";
    FormatPreference: "preference pairs", "paires de préférence", "أزواج تفضيل";
    BadUtf8: "not UTF-8, from byte {0} on", "pas de l'UTF-8, à partir de l'octet {0}", "ليس بترميز UTF-8 ابتداءً من البايت {0}";
    BadTooLong:
        "longer than {0}; split the text over several lines",
        "plus long que {0} ; répartissez le texte sur plusieurs lignes",
        "أطول من {0}؛ وزّع النص على عدة أسطر";
    BadJson: "not JSON: {0}", "pas du JSON : {0}", "ليس JSON: {0}";
    BadNotObject: "not a JSON object", "pas un objet JSON", "ليس كائن JSON";
    BadFormat:
        "its keys {0} are of no known format; use `messages`, `text`, `prompt` and `completion`, `instruction` and `output`, `conversations`, or `chosen` and `rejected`",
        "ses clés {0} ne sont d'aucun format connu ; utilisez `messages`, `text`, `prompt` et `completion`, `instruction` et `output`, `conversations`, ou `chosen` et `rejected`",
        "مفاتيحه {0} ليست من صيغة معروفة؛ استعمل `messages` أو `text` أو `prompt` مع `completion` أو `instruction` مع `output` أو `conversations` أو `chosen` مع `rejected`";
    BadOtherFormat:
        "this is {0}, but the file is {1}; keep one format to a file",
        "ceci est : {0}, mais le fichier est : {1} ; gardez un seul format par fichier",
        "هذا {0} والملف {1}؛ اجعل لكل ملف صيغة واحدة";
    BadMissing: "`{0}` is missing", "`{0}` manque", "ينقص `{0}`";
    BadType: "`{0}` must be {1}", "`{0}` doit être : {1}", "يجب أن يكون `{0}`: {1}";
    BadEmpty: "`{0}` is empty", "`{0}` est vide", "`{0}` فارغ";
    BadRole:
        "`{0}` is `{1}`, which is no role; use {2}",
        "`{0}` vaut `{1}`, qui n'est pas un rôle ; utilisez {2}",
        "`{0}` هو `{1}` وليس دورًا؛ استعمل {2}";
    BadPart:
        "`{0}` is a part of type `{1}`; only text can be learnt",
        "`{0}` est une partie de type `{1}` ; seul le texte s'apprend",
        "`{0}` جزء من نوع `{1}`؛ لا يُتعلَّم إلا النص";
    BadWeight:
        "`{0}` must be 0 or 1, or a number between",
        "`{0}` doit valoir 0 ou 1, ou un nombre entre les deux",
        "يجب أن يكون `{0}` صفرًا أو واحدًا أو ما بينهما";
    BadWeightPlace:
        "`{0}` stands on a message that is not the assistant's; only answers have a weight",
        "`{0}` est sur un message qui n'est pas de l'assistant ; seules les réponses ont un poids",
        "`{0}` على رسالة ليست للمساعد؛ الوزن للإجابات وحدها";
    BadEnd:
        "the last message is of role `{0}`; end with an answer of the assistant",
        "le dernier message est de rôle `{0}` ; terminez par une réponse de l'assistant",
        "آخر رسالة دورها `{0}`؛ اختم بإجابة للمساعد";
    BadArguments:
        "`{0}` is not the JSON text of an object",
        "`{0}` n'est pas le texte JSON d'un objet",
        "`{0}` ليس نص JSON لكائن";
    BadTool:
        "`{0}` calls `{1}`, which is not among the `tools`",
        "`{0}` appelle `{1}`, qui n'est pas dans `tools`",
        "`{0}` يستدعي `{1}` وهو ليس ضمن `tools`";
    BadToolTwice: "`{0}` defines `{1}` a second time", "`{0}` définit `{1}` une seconde fois", "`{0}` يعرّف `{1}` مرة ثانية";
    BadNoCall:
        "`{0}` answers no call; a tool's message follows the call whose id it names",
        "`{0}` ne répond à aucun appel ; le message d'un outil suit l'appel dont il cite l'identifiant",
        "`{0}` لا يجيب عن أي استدعاء؛ رسالة الأداة تتبع الاستدعاء الذي تذكر معرّفه";
    BadUnanswered:
        "the calls of `{0}` are not all answered before the next message",
        "les appels de `{0}` n'ont pas tous leur réponse avant le message suivant",
        "لم يُجب عن كل استدعاءات `{0}` قبل الرسالة التالية";
    BadSameAnswers:
        "the two answers are the same; there is nothing to prefer",
        "les deux réponses sont identiques ; il n'y a rien à préférer",
        "الإجابتان متطابقتان؛ لا شيء يُفضَّل";
    BadNothing:
        "nothing to learn: no answer has a weight above 0",
        "rien à apprendre : aucune réponse n'a un poids supérieur à 0",
        "لا شيء يُتعلَّم: لا إجابة وزنها فوق الصفر";
    BadRendered: "the model cannot take it: {0}", "le modèle ne peut pas le prendre : {0}", "لا يقبله النموذج: {0}";

    // Evaluation
    EvalBadLine: "{0}: line {1}: {2}", "{0} : ligne {1} : {2}", "{0}: السطر {1}: {2}";
    EvalBad:
        "`{0}`: {1} lines cannot be asked",
        "`{0}` : {1} lignes ne peuvent pas être posées",
        "`{0}`: لا يمكن سؤال {1} من الأسطر";
    EvalBadNext:
        "correct or delete them; `falaj eval --help` shows what a line looks like",
        "corrigez-les ou supprimez-les ; `falaj eval --help` montre à quoi ressemble une ligne",
        "صحّحها أو احذفها؛ يعرض `falaj eval --help` شكل السطر";
    EvalEmpty: "`{0}` asks nothing", "`{0}` ne demande rien", "لا يسأل `{0}` شيئًا";
    EvalReportBad: "`{0}` is no report: {1}", "`{0}` n'est pas un rapport : {1}", "`{0}` ليس تقريرًا: {1}";
    EvalReportNext: "choose another file: `--report FILE`", "choisissez un autre fichier : `--report FILE`", "اختر ملفًا آخر: `--report FILE`";
    EvalAsking: "{0}, {1}", "{0}, {1}", "{0}، {1}";
    EvalSuite: "{0}: {1} rows", "{0} : {1} lignes", "{0}: {1} سطرًا";
    EvalKept: "{0} rows were done before", "{0} lignes étaient déjà faites", "{0} سطرًا أُنجزت من قبل";
    EvalFailed:
        "{0}: {1} rows had no answer and count as wrong; the first, line {2}: {3}",
        "{0} : {1} lignes sans réponse comptent comme fausses ; la première, ligne {2} : {3}",
        "{0}: لا إجابة في {1} من الأسطر وتُعد خاطئة؛ أولها السطر {2}: {3}";
    EvalStopped: "stopped after {0} of {1} rows", "arrêté après {0} lignes sur {1}", "توقف بعد {0} من {1} سطرًا";
    EvalStoppedKept:
        "the same command goes on from `{0}`",
        "la même commande reprendra depuis `{0}`",
        "يتابع الأمر نفسه من `{0}`";
    EvalStoppedLost:
        "nothing was kept; `--report FILE` keeps it the next time",
        "rien n'a été gardé ; `--report FILE` le gardera la prochaine fois",
        "لم يُحفظ شيء؛ يحفظه `--report FILE` في المرة القادمة";
    EvalBaseline: "baseline", "référence simple", "خط الأساس";
    EvalRows: "rows", "lignes", "الأسطر";
    EvalDifference: "{0} minus {1}", "{0} moins {1}", "{0} ناقص {1}";
    EvalCertain: "differs", "diffère", "يختلف";
    EvalUncertain: "not told apart", "non départagé", "غير محسوم";
    EvalWritten: "written to `{0}`", "écrit dans `{0}`", "كُتب في `{0}`";

    // Attached engines
    EngineAttached: "attached `{0}`: {1}", "`{0}` rattaché : {1}", "رُبط `{0}`: `{1}`";
    EngineDetached: "`{0}` is no longer attached", "`{0}` n'est plus rattaché", "لم يعد `{0}` مربوطًا";
    EngineNone: "no engine is attached", "aucun moteur n'est rattaché", "لا محرك مربوط";
    EngineUnknown: "no engine is attached as `{0}`", "aucun moteur n'est rattaché sous `{0}`", "لا محرك مربوط باسم `{0}`";
    EngineNoModels: "`{0}` lists no models", "`{0}` n'annonce aucun modèle", "لا يعرض `{0}` أي نموذج";
    EngineNoModelsNext:
        "name them with `--models`, or attach it again once it has some",
        "nommez-les avec `--models`, ou rattachez-le quand il en aura",
        "سمِّها بالخيار `--models`، أو أعد ربطه حين تكون لديه نماذج";

    // Policies
    PolicyFits: "{0} policies fit; SHA-256 {1}", "{0} politiques conviennent ; SHA-256 {1}", "{0} من السياسات صالحة؛ `SHA-256 {1}`";
    PolicyWarning: "odd: {0}", "curieux : {0}", "غريب: {0}";
    PolicyBad: "the policies cannot be used: {0}", "les politiques ne peuvent servir : {0}", "لا يمكن استعمال السياسات: {0}";
    PolicyBadNext:
        "what policies can read is in `crates/govern/policies/site.cedarschema`",
        "ce que les politiques peuvent lire est dans `crates/govern/policies/site.cedarschema`",
        "ما تستطيع السياسات قراءته مذكور في `crates/govern/policies/site.cedarschema`";
    LedgerEmpty: "there is no ledger in {0}", "il n'y a pas de registre dans {0}", "لا يوجد سجل في `{0}`";
    LedgerEmptyNext: "start the site once with `falaj up`", "démarrez le site une fois avec `falaj up`", "شغّل الموقع مرة بالأمر `falaj up`";
    LedgerHolds: "{0}: {1} entries, root {2}", "{0} : {1} entrées, racine {2}", "`{0}`: عدد القيود {1}، الجذر `{2}`";
    LedgerKeyMade: "made the site's key; others know it as {0}", "la clé du site est faite ; les autres la connaissent comme {0}", "أُنشئ مفتاح الموقع، ويعرفه الآخرون باسم `{0}`";
    SettingEither: "`{0}` and `{1}` are both set", "`{0}` et `{1}` sont tous deux définis", "الإعدادان `{0}` و`{1}` محددان معًا";
    SettingEitherNext: "keep one of them", "gardez l'un des deux", "أبقِ واحدًا منهما";
    SettingMissing: "`{0}` is not set", "`{0}` n'est pas défini", "الإعداد `{0}` غير محدد";
    SettingMissingNext: "these go together: {0}", "ceux-ci vont ensemble : {0}", "هذه الإعدادات تأتي معًا: {0}";
    LedgerExported: "{0} entries are in {1}", "{0} entrées sont dans {1}", "{0} من القيود في `{1}`";
    AdminKept: "kept {0} {1}", "gardé : {0} {1}", "حُفظ {0} `{1}`";
    MigrateMoved: "this site's rows are in PostgreSQL already: see `database.url_file`", "les données de ce site sont déjà dans PostgreSQL : voir `database.url_file`", "بيانات هذا الموقع في PostgreSQL أصلًا: انظر `database.url_file`";
    MigrateAddress:
        "other users of this machine can see an address on the command line; with a password in it, use --to-file",
        "d'autres utilisateurs de cette machine voient une adresse sur la ligne de commande ; avec un mot de passe, utilisez --to-file",
        "يرى مستخدمو هذا الجهاز الآخرون العنوان في سطر الأوامر؛ إن كان فيه كلمة سر فاستعمل `--to-file`";
    MigrateWhere: "where to: --to, --to-file or --blobs", "vers où : --to, --to-file ou --blobs", "إلى أين: `--to` أو `--to-file` أو `--blobs`";
    MigrateNoBlobs: "`blobs.url` names no bucket to move to; set it first", "`blobs.url` ne nomme aucun compartiment de destination ; réglez-le d’abord", "لا يسمّي `blobs.url` حاوية يُنقل إليها؛ اضبطه أولًا";
    MigrateBlobsDone:
        "every blob was read back from S3 and is what its digest says; those in the data folder are not read any more and may be deleted",
        "chaque fichier a été relu depuis S3 et correspond à son empreinte ; ceux du dossier de données ne sont plus lus et peuvent être supprimés",
        "قُرئ كل ملف من S3 من جديد وهو مطابق لبصمته؛ ما في مجلد البيانات لم يعد يُقرأ ويمكن حذفه";
    BlobsNoCredentials: "nothing to sign requests to S3 with: {0}", "rien pour signer les requêtes à S3 : {0}", "لا شيء يوقّع الطلبات إلى S3: {0}";
    BlobsNoCredentialsNext:
        "put `aws_access_key_id = …` and `aws_secret_access_key = …` into a file that only you can read, and name it in `blobs.credentials_file`",
        "mettez `aws_access_key_id = …` et `aws_secret_access_key = …` dans un fichier que vous seul pouvez lire, et nommez-le dans `blobs.credentials_file`",
        "ضع `aws_access_key_id = …` و`aws_secret_access_key = …` في ملف لا يقرؤه سواك، وسمّه في `blobs.credentials_file`";
    UpNoBlobs:
        "uploaded files cannot be reached now: {0}; the site serves without them, and with them as soon as they can be",
        "les fichiers déposés sont inaccessibles pour l’instant : {0} ; le site sert sans eux, et avec eux dès que possible",
        "الملفات المرفوعة غير متاحة الآن: {0}؛ يعمل الموقع بدونها، وبها متى أمكن";
    MigrateDone:
        "both sides are equal (table, rows, copied now, SHA-256); set database.url_file, then start the site: the ledger, usage and keys stay in the data folder, and files where they are",
        "les deux côtés sont égaux (table, lignes, copiées maintenant, SHA-256) ; réglez database.url_file, puis démarrez le site : registre, usage et clés restent dans le dossier de données, et les fichiers où ils sont",
        "الجانبان متساويان (الجدول والصفوف وما نُسخ الآن وSHA-256)؛ اضبط `database.url_file` ثم شغّل الموقع: يبقى السجل والاستهلاك والمفاتيح في مجلد البيانات، والملفات حيث هي";
    AdminRemoved: "removed {0}", "{0} retiré", "أُزيل `{0}`";
    AdminSecret: "this is its secret: it is shown once and kept nowhere", "voici son secret : il est montré une fois et gardé nulle part", "هذا سره: يظهر مرة واحدة ولا يُحفظ في أي مكان";
    AdminWhose: "whose limit: --organisation, --workspace or --key", "limite de qui : --organisation, --workspace ou --key", "حد مَن: `--organisation` أو `--workspace` أو `--key`";
    AdminGrant: "the terms", "les termes", "الشروط";
    AdminUnknown: "there is no {0} `{1}`", "il n'y a pas de {0} `{1}`", "لا يوجد {0} `{1}`";
    AdminSeveral: "several are called {0} `{1}`: {2}", "plusieurs s'appellent {0} `{1}` : {2}", "يحمل أكثر من واحد الاسم {0} `{1}`: {2}";
    AdminRole: "there is no role `{0}` there; there are {1}", "il n'y a pas de rôle `{0}` ici ; il y a {1}", "لا يوجد دور `{0}` هناك؛ الأدوار: {1}";
    AdminElsewhere: "`{0}` is of another organisation", "`{0}` est d'une autre organisation", "`{0}` من مؤسسة أخرى";
    AdminSignedOut: "{1}: ended {0} sessions", "{1} : {0} sessions terminées", "`{1}`: أُنهيت {0} جلسات";
    AdminAction: "`{0}` is no action; there are {1}", "`{0}` n'est pas une action ; il y a {1}", "`{0}` ليس إجراءً؛ الإجراءات: {1}";
    WitnessReady: "witnessing {0} ledgers at http://{1}; its key:", "témoin de {0} registres sur http://{1} ; sa clé :", "يشهد على {0} سجلات في `http://{1}`؛ مفتاحه:";
    WitnessNoKey: "{0} holds no key of a ledger", "{0} ne contient pas de clé de registre", "لا يحتوي `{0}` على مفتاح سجل";
    VerifyCounts:
        "{0}: {1} entries: {2} admissions, {3} receipts, {4} sessions, {5} tombstones; {7} denials; {6} decisions made again",
        "{0} : {1} entrées : {2} admissions, {3} reçus, {4} sessions, {5} pierres tombales ; {7} refus ; {6} décisions refaites",
        "`{0}`: عدد القيود {1}: {2} إذن دخول، {3} إيصال، {4} جلسة، {5} شاهد حذف؛ والمرفوض {7}؛ وأُعيد اتخاذ {6} قرارًا";
    VerifyBack: "times go back by up to {0} s: this site's clock was set back", "les heures reculent de {0} s au plus : l'horloge de ce site a été retardée", "تتراجع الأوقات بما يصل إلى {0} ثانية: أُعيدت ساعة هذا الموقع إلى الوراء";
    VerifyWitnesses: "cosigned by {0}", "cosigné par {0}", "شارك في التوقيع {0}";
    VerifyOwnKeys:
        "the keys are the pack's own: it is whole, but anybody could have made it; name keys that you trust with --trust",
        "les clés sont celles du paquet : il est entier, mais n'importe qui a pu le faire ; nommez des clés sûres avec --trust",
        "المفاتيح هي مفاتيح الحزمة نفسها: هي كاملة لكن أي أحد كان يستطيع صنعها؛ سمِّ مفاتيح تثق بها بالخيار `--trust`";
    VerifyHolds: "everything holds", "tout tient", "كل شيء صحيح";
    VerifyFails: "{0} things do not hold", "{0} choses ne tiennent pas", "{0} من الأمور لا تصح";
    VerifyFailsNext:
        "ask the site for another export, or show this to whoever relies on it",
        "demandez au site un autre export, ou montrez ceci à qui s'y fie",
        "اطلب من الموقع تصديرًا آخر، أو اعرض هذا على من يعتمد عليه";
    VerifyMissing: "the decision that it names is not in the pack", "la décision qu'elle nomme n'est pas dans le paquet", "القرار الذي يسميه ليس في الحزمة";
    VerifyNoPolicies: "the policies of its decision are not in the pack", "les politiques de sa décision ne sont pas dans le paquet", "سياسات قراره ليست في الحزمة";
    VerifyOther: "its decision, made again, is another", "sa décision, refaite, est autre", "قراره حين أُعيد اتخاذه مختلف";
    VerifyPermitted: "its decision was a permit", "sa décision était une autorisation", "كان قراره إذنًا";
    VerifyDenied: "its decision was a denial", "sa décision était un refus", "كان قراره رفضًا";
    VerifyClaims: "the entry and its decision name another {0}", "l'entrée et sa décision nomment un autre élément : {0}", "القيد وقراره يختلفان في {0}";
    VerifyNoReceipt: "this receipt is not in the ledger", "ce reçu n'est pas dans le registre", "هذا الإيصال ليس في السجل";
    VerifyBadReceipt: "this is no receipt: {0}", "ce n'est pas un reçu : {0}", "هذا ليس إيصالًا: {0}";
    VerifyReceipt: "the receipt is entry {0}:", "le reçu est l'entrée {0} :", "الإيصال هو القيد {0}:";
    ReplaySame: "answered again by {0}: the same, {1} tokens", "répondu de nouveau par {0} : identique, {1} jetons", "أُعيدت الإجابة من `{0}`: مطابقة، {1} رمزًا";
    ReplayOther: "answered again by {0}: another from character {1} of choice {2} on: {3} in place of {4}", "répondu de nouveau par {0} : autre dès le caractère {1} du choix {2} : {3} au lieu de {4}", "أُعيدت الإجابة من `{0}`: تختلف من الحرف {1} في الخيار {2}: {3} بدلًا من {4}";
    ReplayModel: "the receipt is of another model than {0}", "le reçu est d'un autre modèle que {0}", "الإيصال لنموذج غير `{0}`";
    ReplayNumerics:
        "the receipt was made with {0}, this is {1}: a difference below may come from that",
        "le reçu a été fait avec {0}, ici {1} : une différence peut en venir",
        "صُنع الإيصال على `{0}` وهذا `{1}`: قد يكون هذا سبب الاختلاف";
    ReplayCounts: "the receipt says {0} prompt and {1} answered tokens, the replay has {2} and {3}", "le reçu dit {0} jetons d'entrée et {1} de réponse, la reprise {2} et {3}", "يذكر الإيصال {0} رمزًا للطلب و{1} للإجابة، وفي الإعادة {2} و{3}";
    ReplayRefused: "the request cannot be answered again: {0}", "la requête ne peut être refaite : {0}", "تعذّرت إعادة الطلب: {0}";
    PolicyWorld: "the world", "le monde", "العالم";
    PolicyPermitted: "permitted", "permis", "مسموح";
    PolicyDenied: "denied", "refusé", "مرفوض";
    PolicyWrong: "{0}: {1} ({2})", "{0} : {1} ({2})", "`{0}`: القرار {1} (`{2}`)";
    PolicyTestsFailed: "{0} of {1} cases as expected", "{0} cas sur {1} comme attendu", "{0} من {1} حالة كما هو متوقع";
    PolicyTestsNext:
        "change the policies, or the cases that are told above",
        "changez les politiques, ou les cas cités plus haut",
        "غيّر السياسات أو الحالات المذكورة أعلاه";
    PolicyTestsPassed: "all {0} cases as expected", "les {0} cas comme attendu", "كل الحالات ({0}) كما هو متوقع";
    PolicyChange: "{0}: {1}: {2}, would be {3}", "{0} : {1} : {2}, serait {3}", "`{0}`: `{1}`: {2}، وسيصبح {3}";
    PolicyChanged: "{0} of {1} decisions would be others", "{0} décisions sur {1} seraient autres", "ستتغير {0} من {1} قرارًا";
    PolicyRemedy: "  what helps: {0}", "  ce qui aide : {0}", "  ما العمل: {0}";
    PolicyVerified: "  made again: the same", "  refaite : la même", "  أُعيد اتخاذه: القرار نفسه";
    PolicyForged: "  made again: NOT the same", "  refaite : PAS la même", "  أُعيد اتخاذه: ليس القرار نفسه";
    PolicyUnverified: "  not made again: {0}", "  non refaite : {0}", "  لم يُعَد اتخاذه: {0}";

    // Doctor
    DoctorCpu: "CPU", "processeur", "المعالج";
    DoctorFeatures: "CPU features", "jeux d'instructions", "تعليمات المعالج";
    DoctorIsa: "Falaj uses", "Falaj utilise", "يستخدم Falaj";
    DoctorCores: "cores", "cœurs", "الأنوية";
    DoctorCoresOf: "{0} usable of {1}", "{0} utilisables sur {1}", "{0} متاحة من {1}";
    DoctorMemory: "memory", "mémoire", "الذاكرة";
    DoctorMemoryOf: "{0} free of {1}", "{0} libres sur {1}", "{0} متاحة من {1}";
    DoctorLimit: "limit of the container or service: {0}", "limite du conteneur ou du service : {0}", "حد الحاوية أو الخدمة: {0}";
    DoctorDisk: "disk", "disque", "القرص";
    DoctorDiskOf: "{0} free in `{1}`", "{0} libres dans `{1}`", "{0} متاحة في `{1}`";
    DoctorEnergy: "energy", "énergie", "الطاقة";
    DoctorEnergyGrade: "grade {0}: {1}", "classe {0} : {1}", "الدرجة {0}: {1}";
    DoctorEnergyCounters:
        "counters of {0} processor packages, above idle, shared by CPU time",
        "compteurs de {0} processeurs, au-dessus du repos, partagés selon le temps processeur",
        "عدادات {0} من المعالجات، ما فوق الخمول، موزعة بحسب زمن المعالج";
    DoctorEnergyMeter:
        "the meter of `energy.meter_file`, above idle, shared by CPU time",
        "le compteur de `energy.meter_file`, au-dessus du repos, partagé selon le temps processeur",
        "العداد في `energy.meter_file`، ما فوق الخمول، موزعًا بحسب زمن المعالج";
    DoctorEnergySet:
        "CPU time × {0} W a hardware thread, from `energy.cpu_watts`",
        "temps processeur × {0} W par fil matériel, d'après `energy.cpu_watts`",
        "زمن المعالج × {0} واط لكل خيط عتادي، من `energy.cpu_watts`";
    DoctorEnergyLimit:
        "CPU time × {0} W a hardware thread, from the processor's power limit",
        "temps processeur × {0} W par fil matériel, d'après la limite de puissance du processeur",
        "زمن المعالج × {0} واط لكل خيط عتادي، من حد قدرة المعالج";
    DoctorEnergyAssumed:
        "CPU time × {0} W a hardware thread, assumed; `energy.cpu_watts` makes it grade D",
        "temps processeur × {0} W par fil matériel, supposés ; `energy.cpu_watts` en fait la classe D",
        "زمن المعالج × {0} واط لكل خيط عتادي، افتراضًا؛ و`energy.cpu_watts` يجعلها الدرجة D";
    DoctorEnergyGpus:
        "{0} GPUs count; nothing of Falaj runs there, so nothing of it is charged",
        "{0} GPU comptent ; rien de Falaj n'y tourne, donc rien n'en est imputé",
        "{0} من معالجات الرسوم تعدّ؛ ولا يعمل عليها شيء من Falaj فلا يُحسب منها شيء";
    DoctorNoCounters:
        "no power counters in `{0}`: a virtual machine seldom has them",
        "aucun compteur d'énergie dans `{0}` : une machine virtuelle en a rarement",
        "لا عدادات للطاقة في `{0}`: قلّما تملكها الأجهزة الافتراضية";
    DoctorCountersDenied:
        "`{0}` may not be read: let the account of Falaj read it for grade B",
        "`{0}` n'est pas lisible : autorisez le compte de Falaj à le lire pour la classe B",
        "لا تُسمح قراءة `{0}`: اسمح لحساب Falaj بقراءته لتكون الدرجة B";
    DoctorCarbon: "electricity", "électricité", "الكهرباء";
    DoctorCarbonOf: "{0} g CO2 per kWh ({1})", "{0} g de CO2 par kWh ({1})", "{0} غ CO2 لكل ك.و.س ({1})";
    World: "world", "monde", "العالم";
    DoctorBandwidth: "memory speed", "débit mémoire", "سرعة الذاكرة";
    DoctorPeaks: "arithmetic", "calcul", "الحساب";
    DoctorPerToken: "Each token costs:", "Chaque jeton coûte :", "كلفة كل رمز:";
    DoctorBytes: "bytes read", "octets lus", "بايتات تُقرأ";
    DoctorOps: "operations", "opérations", "عمليات";
    DoctorContext: "per 1000 tokens of context", "par 1000 jetons de contexte", "لكل 1000 رمز من السياق";
    DoctorMachine: "This machine, measured just now:", "Cette machine, mesurée à l'instant :", "هذا الجهاز، كما قيس الآن:";
    DoctorReached: "Reached, in tokens/s:", "Atteint, en jetons/s :", "ما بُلغ، بالرموز في الثانية:";
    DoctorDecode: "decoding", "décodage", "التوليد";
    DoctorPrompt: "reading prompts", "lecture des questions", "قراءة الأسئلة";
    DoctorAtMost: "of at most {0}", "sur {0} au plus", "من {0} على الأكثر";
    DoctorShare: "{0} %", "{0} %", "{0} ٪";
    DoctorSpeculation: "guessing ahead", "anticipation", "التخمين المسبق";
    DoctorSpeculationOff: "off (`engine.speculation`)", "désactivée (`engine.speculation`)", "متوقف (`engine.speculation`)";
    DoctorGuesses:
        "{0} tokens/s where the most likely token is taken; {1} of {2} guesses were right",
        "{0} jetons/s en prenant le jeton le plus probable ; {1} prévisions justes sur {2}",
        "{0} رمزًا في الثانية بأخذ الرمز الأرجح؛ أصاب {1} من {2} تخمينًا";
    DoctorDraft: "from the text, and by `{0}` ({1})", "d'après le texte, et par `{0}` ({1})", "من النص ومن `{0}` ({1})";
    DoctorNoDraft: "from the text alone", "d'après le texte seul", "من النص وحده";
    DoctorLoad: "time to load", "temps de chargement", "زمن التحميل";
    DoctorResident: "memory in use", "mémoire occupée", "الذاكرة المستعملة";
    DoctorResidentOf:
        "{0} (weights {1}, room for the context {2})",
        "{0} (poids {1}, place pour le contexte {2})",
        "{0} (الأوزان {1}، مكان السياق {2})";
    DoctorFits: "What fits in memory, with room for a context:", "Ce qui tient en mémoire, avec la place d'un contexte :", "ما تتسع له الذاكرة مع مكان للسياق:";
    DoctorFitsParameters: "parameters", "paramètres", "المعاملات";
    DoctorFitsSpeed: "about {0} tokens/s for 7 B", "environ {0} jetons/s pour 7 B", "نحو {0} رمزًا في الثانية لنموذج 7 B";
    DoctorDebugBuild:
        "this is a debug build; measure with `cargo run --release -- doctor`",
        "ceci est une version de débogage ; mesurez avec `cargo run --release -- doctor`",
        "هذه نسخة تطوير؛ للقياس: `cargo run --release -- doctor`";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(text: &str) -> Vec<char> {
        let digits = text.match_indices('{').filter_map(|(at, _)| text[at + 1..].chars().next());
        let mut digits: Vec<char> = digits.filter(char::is_ascii_digit).collect();
        digits.sort_unstable();
        digits.dedup();
        digits
    }

    #[test]
    fn every_message_exists_in_three_languages_with_the_same_gaps() {
        for word in Word::ALL {
            let [en, fr, ar] = word.texts();
            for text in [en, fr, ar] {
                assert!(!text.trim().is_empty(), "{word:?}");
                assert_eq!(gaps(text), gaps(en), "{word:?}: {text}");
            }
            let commands = |text: &str| text.matches('`').count();
            assert_eq!(commands(ar) % 2, 0, "{word:?}");
            let arabic = ar.chars().any(|c| ('\u{600}'..='\u{6ff}').contains(&c));
            assert!(arabic, "{word:?} has no Arabic");
        }
    }

    #[test]
    fn gaps_are_filled_once() {
        assert_eq!(fill("a {0} b {1} {x}", &["{1}", "2"]), "a {1} b 2 {x}");
    }

    #[test]
    fn locales_choose_the_language() {
        assert_eq!(Lang::of_locale("ar_MA.UTF-8"), Lang::Ar);
        assert_eq!(Lang::of_locale("fr"), Lang::Fr);
        assert_eq!(Lang::of_locale("C.UTF-8"), Lang::En);
        assert_eq!(Lang::of_locale("de_DE"), Lang::En);
    }
}
