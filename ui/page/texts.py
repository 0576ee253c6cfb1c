"""Every text of the page, in English and Chinese."""

LANGUAGES = {"en": "English", "zh": "中文"}

_TEXTS: dict[str, tuple[str, str]] = {
    "title": ("Flamingo Assistant", "火烈鸟助手"),
    "tagline": ("Chat about pictures. Teach by example.", "看图对话，以示例教学。"),
    "language": ("Language", "语言"),
    "view": ("View", "视图"),
    "view_chat": ("Chat", "对话"),
    "view_examples": ("Examples", "示例"),
    # conversations
    "conversations": ("Conversations", "对话列表"),
    "new": ("New chat", "新对话"),
    "search": ("Search conversations", "搜索对话"),
    "none_found": ("No conversation found.", "没有找到对话。"),
    "none_yet": ("Conversations appear here.", "对话会显示在这里。"),
    "untitled": ("Untitled", "未命名"),
    "manage": ("Manage", "管理"),
    "rename": ("Rename", "重命名"),
    "name": ("Name", "名称"),
    "delete": ("Delete", "删除"),
    "delete_sure": ("Delete this conversation for good?", "确定永久删除此对话？"),
    "delete_yes": ("Yes, delete it", "确定删除"),
    "export": ("Export", "导出"),
    "import": ("Import a conversation", "导入对话"),
    "import_file": ("A .json or .zip that was exported", "导出的 .json 或 .zip 文件"),
    "more": ("Show more", "显示更多"),
    "not_found": ("This conversation cannot be opened: {reason}", "无法打开此对话：{reason}"),
    # model and parameters
    "model": ("Model", "模型"),
    "model_help": ("default, a directory, or a hub id", "default、目录或模型库名称"),
    "model_load": ("Load", "加载"),
    "retry": ("Try again", "重试"),
    "load_failed": ("The model could not be loaded: {reason}", "模型加载失败：{reason}"),
    "stage_load": ("Loading the model {name}", "正在加载模型 {name}"),
    "stage_wait": ("{name}: waiting for another process", "{name}：等待其他进程"),
    "stage_download": ("{name}: downloading", "{name}：下载中"),
    "stage_verify": ("{name}: checking the hash", "{name}：校验中"),
    "stage_unpack": ("{name}: unpacking", "{name}：解压中"),
    "stage_convert": ("{name}: converting", "{name}：转换中"),
    "stage_compile": ("{name}: compiling", "{name}：编译中"),
    "parameters": ("Parameters", "参数"),
    "max_new_tokens": ("Most tokens of an answer", "回答的最大词元数"),
    "temperature": ("Temperature (0 is greedy)", "温度（0 为贪心）"),
    "top_p": ("Top-p", "Top-p"),
    "top_k": ("Top-k (0 is all)", "Top-k（0 为全部）"),
    "min_p": ("Min-p", "Min-p"),
    "repetition_penalty": ("Repetition penalty (1 is none)", "重复惩罚（1 为无）"),
    "beams": ("Beams (1 is none)", "束搜索宽度（1 为不用）"),
    "stop_strings": ("Stop strings, one a line", "停止字符串，每行一个"),
    "seed": ("Seed (empty: another one each time)", "随机种子（空为每次不同）"),
    "time_limit": ("Time limit in seconds (empty: none)", "时间限制（秒，空为无）"),
    "reset": ("Reset", "恢复默认"),
    "system": ("System prompt", "系统提示"),
    # composer
    "ask": ("Ask about pictures, or anything", "就图片提问，或随便聊聊"),
    "composer_help": (
        "Drop, paste or pick pictures (up to {most} MB each). [img1] in the text places the first one.",
        "可拖放、粘贴或选择图片（每张最多 {most} MB）。文中的 [img1] 表示第一张图片的位置。",
    ),
    "waiting_pictures": ("These pictures go with the next message", "以下图片将随下一条消息发送"),
    "remove": ("Remove", "移除"),
    "remove_picture": ("Remove [img{number}]", "移除 [img{number}]"),
    "insert": ("Insert", "插入"),
    # transcript
    "you": ("You", "你"),
    "assistant": ("Assistant", "助手"),
    "picture_alt": ("Picture {number}: {name}", "图片 {number}：{name}"),
    "stop": ("Stop", "停止"),
    "regenerate": ("Regenerate", "重新生成"),
    "edit": ("Edit", "编辑"),
    "undo": ("Undo", "撤销"),
    "copy": ("Copy", "复制"),
    "copied": ("Copied", "已复制"),
    "save": ("Send", "发送"),
    "cancel": ("Cancel", "取消"),
    "edit_text": ("Your message", "你的消息"),
    "previous": ("Previous", "上一个"),
    "next": ("Next", "下一个"),
    "version": ("{at} of {all}", "第 {at}/{all} 个"),
    "reading": ("Reading ...", "正在阅读……"),
    "rate": ("Rate this answer", "评价此回答"),
    "figures": (
        "{tokens} tokens · {speed:.1f} tokens/s · first after {first:.2f} s · {cached} of {prompt} prompt tokens known",
        "{tokens} 个词元 · {speed:.1f} 词元/秒 · 首词 {first:.2f} 秒 · 提示 {prompt} 个词元中 {cached} 个已缓存",
    ),
    "ended_length": ("cut at the limit of tokens", "达到词元上限"),
    "ended_cancelled": ("stopped", "已停止"),
    "ended_time": ("out of time", "超时"),
    "ended_error": ("failed", "失败"),
    "empty_answer": ("(no text)", "（无文字）"),
    # gallery
    "gallery": ("Try one of these", "试试这些"),
    "gallery_panda": ("What is in the picture?", "图中有什么？（英文提问）"),
    "gallery_format": ("Answer in JSON, shown by two examples", "用两个示例教它以 JSON 回答"),
    "gallery_scene": ("Where is the red circle?", "红色圆在哪里？（英文提问）"),
    "gallery_text": ("No picture: ask the language model", "不带图片：直接问语言模型"),
    # workbench
    "examples": ("Examples", "示例"),
    "examples_help": (
        "Examples stand before the conversation, in this order: show the model what you want.",
        "示例按此顺序位于对话之前：向模型展示你想要的回答方式。",
    ),
    "examples_on": ("Examples in the prompt: {count}", "提示中的示例数：{count}"),
    "add_example": ("Add an example", "添加示例"),
    "add_pictures": ("Add examples from pictures", "从图片添加示例"),
    "load_set": ("Load a set: a folder, or a .jsonl with its pictures", "加载示例集：文件夹，或 .jsonl 及其图片"),
    "load_folder": ("Folder", "文件夹"),
    "load_files": ("Files", "文件"),
    "load_how": (
        'A line of the .jsonl: {{"image": "cat.png", "question": "What is it?", "answer": "a cat"}}. '
        "In a folder without one, a picture's own folder or file name is its answer.",
        '.jsonl 每行：{{"image": "cat.png", "question": "What is it?", "answer": "a cat"}}。'
        "没有 .jsonl 的文件夹中，图片所在文件夹名或文件名即为答案。",
    ),
    "saved_sets": ("Saved sets", "已保存的示例集"),
    "set_name": ("Name of the set", "示例集名称"),
    "save_set": ("Save as a set", "保存为示例集"),
    "use_set": ("Use", "使用"),
    "set_saved": ("Saved as {name}.", "已保存为 {name}。"),
    "enabled": ("Example {number} is on", "启用示例 {number}"),
    "question": ("Question", "问题"),
    "answer": ("Answer", "回答"),
    "picture": ("Picture", "图片"),
    "no_picture": ("no picture", "无图片"),
    "up": ("Move up", "上移"),
    "down": ("Move down", "下移"),
    "needs_answer": ("is not used before it has an answer", "填写回答后才会使用"),
    "clear": ("Remove all", "全部移除"),
    "sees": ("What the model sees", "模型看到的内容"),
    "sees_tokens": ("{tokens} tokens", "{tokens} 个词元"),
    "compare": ("Side by side", "并排对比"),
    "compare_help": (
        "One question, with the examples and without them.",
        "同一问题，分别使用和不使用示例。",
    ),
    "compare_run": ("Compare", "对比"),
    "compare_question": ("Question to compare", "要对比的问题"),
    "compare_pictures": ("Pictures of the question", "问题的图片"),
    "with_examples": ("With the examples", "使用示例"),
    "without_examples": ("Without", "不使用示例"),
    "role_system": ("system", "系统"),
    "role_user": ("user", "用户"),
    "role_assistant": ("assistant", "助手"),
    "empty_prompt": ("Nothing yet.", "暂无内容。"),
}


class Texts:
    """The texts of one language.

    Args:
        language: a key of ``LANGUAGES``; any other is English.
    """

    def __init__(self, language: str) -> None:
        self.language = language if language in LANGUAGES else "en"
        self._at = list(LANGUAGES).index(self.language)

    def __call__(self, key: str, **values: object) -> str:
        """The text of a key, with its values filled in."""
        return _TEXTS[key][self._at].format(**values)
