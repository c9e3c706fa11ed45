"""Common English words: in nearly every vocabulary each is one token, with the space before it."""

from __future__ import annotations

WORDS = tuple(
    """able about above across after again air all along also always and animal another answer any are area around ask
    away back bad ball base be became because become been before began being best better big bird black blue boat body
    book both box boy bring brought build but buy call came can car care carry case center certain change check city
    class clear close cold color come common complete could country course cover cross cut dark day deep did different
    direct do does dog done door down draw drive dry during each early earth ease east eat end enough even ever every
    example eye face fact fall family far farm fast father feel feet felt few field figure fill final find fine fire
    first fish five fly follow food foot for force form found four free friend from front full game gave get girl give
    go gold gone good got great green ground group grow had half hand happen hard has have he head hear heard heat help
    her here high him his hold home hope horse hot hour house how hundred idea if in inch interest into is island it
    just keep kind king knew know land language large last late laugh lead learn leave left less let letter life light
    like line list listen little live long look lot love low machine made main make man many map mark may mean measure
    men might mile mind minute miss money moon more morning most mother mountain move much music must my name near need
    never new next night no north note nothing notice now number of off often oh old on once one only open or order
    other our out over own page paper part pass past pattern people perhaps person picture piece place plain plan plane
    plant play point port possible pound power press problem produce product pull put question quick rain ran reach
    read ready real record red remember rest right river road rock room round rule run said same saw say school
    science sea second see seem self sentence serve set several shape she ship short should show side simple since
    sing six size sleep slow small snow so some song soon sound south space special stand star start state stay step
    still stood stop story street strong study such sun sure surface system table tail take talk teach tell ten test
    than that the their them then there these they thing think this those though thought thousand three through time to
    together told too took top toward town travel tree true try turn two under unit until up us use usual very voice
    wait walk want war warm was watch water way we week well went were west what wheel when where which while white who
    whole why will wind with wonder wood word work world would write year yes yet you young your""".split()
)
