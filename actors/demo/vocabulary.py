"""Texts that the tokenizer learns as tokens, so that prompts of people and programs have few tokens."""

COMMON_WORDS = """
 the of and to in a is that for it as was with be by on not he his but at are this have from or had an they
 which one you were all her she there would their we him been has when who will no more if out so up said
 what its about than into them can only other time new some could these two may first then do any like my
 now over such our man me even most made after also did many off before must well back through years where
 much your way down should because long each just state those people too mr how little good world make very
 year still see work men day get here old life both between being under three never know same last another
 while us might great go come since against right came take used himself few house american use place
 during high without again home around small however found part school thought went say general once upon
 war left every got until always away something fact water less public put thing almost hand enough far
 took head yet government system set better told nothing night end why called eyes find going look asked
 later knew point next program city business give group toward young days let room word need side done open
 full line power case name help number problem second mean child country write read list change answer
 question text message messages user users assistant response responses request requests result results
 tool tools function functions call calls called calling argument arguments parameter parameters value
 values type types string strings integer object objects array arrays boolean required optional default
 example examples description describe following follow return returns returned format content context
 input output file files folder directory path paths command commands run running shell code line lines
 error errors test tests testing create created update updated delete remove add added edit search
 searching web page pages link url information current currently date today data database task tasks step
 steps plan project instruction instructions rule rules note important never ensure provide provided
 provides using include includes including specific specified available multiple single whether current
 working environment process model models language important conversation history chat title tag tags
 summary summarize generate generated based relevant topic topics focus keep make sure only when necessary
 avoid allow allowed before after unless instead without within should must image images document documents
 source sources reference references support supports supported version client server service network
 access permission security secret key keys token tokens limit limits maximum minimum option options
 setting settings configuration check checks start stop wait time seconds minutes hours month week year
 weather temperature email phone address person place number amount price total count first last language
 english simple short detailed complete correct clear direct directly understand explain write writing
 reading changes changing apply patch commit branch git python javascript html json yaml xml markdown
 method class variable import export build install package library module modules component interface false
 true null none yes undefined print echo cat grep find head tail sed ls cd mkdir npm node bash sudo ing ed
 er ers est ly ion ions tion ation ment ness able ible ful less ous ive al ity ies es re un pre dis con com
""".replace("\n", " ")
"""The most frequent English words, then words of instructions to agents, then endings."""

IDIOMS = (
    '{"type": "function", "function": {"name": "a", "description": "a", "parameters": {"type": "object", '
    '"properties": {"a": {"type": "string", "description": "a"}, "a": {"type": "integer"}, '
    '"a": {"type": "number"}, "a": {"type": "boolean"}, "a": {"type": "array", "items": {"type": "string"}}}'
    ', "required": ["a", "a"], "additionalProperties": false, "strict": true}}}\n'
    "\n\n# \n\n## \n\n### \n- \n  - \n1. \n```\n```json\n`` `` <> </> () () {} [] -- --- ==== // /// ... "
    ".\n\n !\n ?\n :\n\n    \n        \n            \n  \n\t\n\t\t\n"
)
"""Text that programs write between words: JSON schemas, Markdown, brackets, white space."""
