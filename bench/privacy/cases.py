#!/usr/bin/env python3
"""Writes labelled cases for the detector: values of each checksummed class and HIPAA format, and near misses of each.

    pip install faker==40.* python-stdnum==2.*
    python bench/privacy/cases.py --each 1000 > cases.jsonl
    cargo run --release -p nearfield-privacy --example measure -- cases cases.jsonl

A near miss is a value with one digit or letter changed that the reference library (python-stdnum, or faker's own
checksum) rejects, or, for formats without a check, the same value under a word that means something else, or a form that is
never given out. Each line: class (what it is, and after a slash which form of it), text, value, real. The tests' own cases
are `--each 12`.
"""

import argparse
import importlib
import json
import random
import string

from faker import Faker

AROUND = [
    "{label} {value}",
    "{label}: {value}",
    "My {label} is {value}.",
    "Please check {label} {value} before noon, thank you",
    "- {label} = {value}\n- status = open",
    "She wrote that the {label} was {value} and asked for help",
]


def module(name):
    return importlib.import_module("stdnum." + name)


def digits(rng, count, first="0123456789"):
    return rng.choice(first) + "".join(rng.choice(string.digits) for _ in range(count - 1))


def solve(rng, draw, valid):
    """Draws until the reference accepts."""
    while True:
        value = draw()
        if valid(value):
            return value


def spoil(rng, value, valid):
    """Changes one character to another of its kind until the reference rejects it."""
    while True:
        at = rng.randrange(len(value))
        old = value[at]
        if old.isdigit():
            new = rng.choice(string.digits)
        elif old.isalpha():
            new = rng.choice(string.ascii_uppercase)
        else:
            continue
        if new == old:
            continue
        changed = value[:at] + new + value[at + 1:]
        if not valid(changed):
            return changed


def grouped(rng, value, sizes, separator=" "):
    """Now and then in groups, as people write it."""
    if rng.random() < 0.6 or len(value) != sum(sizes):
        return value
    parts, at = [], 0
    for size in sizes:
        parts.append(value[at:at + size])
        at += size
    return separator.join(parts)


def checked(rng, fake):
    """class -> (label, draw, valid)"""
    luhn, iban, nhs = module("luhn"), module("iban"), module("gb.nhs")
    pesel, abn, acn, tfn = module("pl.pesel"), module("au.abn"), module("au.acn"), module("au.tfn")
    nif, nie, fiscal, iva = module("es.dni"), module("es.nie"), module("it.codicefiscale"), module("it.iva")
    aadhaar, hetu, brn = module("in_.aadhaar"), module("fi.hetu"), module("kr.brn")
    rrn, tnin, rtn = module("kr.rrn"), module("th.pin"), module("us.rtn")
    bitcoin = module("bitcoin")
    gstin, pan, epic, uen = module("in_.gstin"), module("in_.pan"), module("in_.epic"), module("sg.uen")
    upper = string.ascii_uppercase
    npi_valid = lambda v: len(v) == 10 and v[0] in "12" and luhn.is_valid("80840" + v)
    dea_valid = lambda v: (len(v) == 9 and v[2:].isdigit()
                           and (int(v[2]) + int(v[4]) + int(v[6]) + 2 * (int(v[3]) + int(v[5]) + int(v[7]))) % 10 == int(v[8]))

    def medicare_valid(v):
        return (len(v) == 10 and v[0] in "23456"
                and sum(int(d) * w for d, w in zip(v, (1, 3, 7, 9, 1, 3, 7, 9))) % 10 == int(v[8]))

    def vin_valid(v):
        values = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", (1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 7, 9, 2, 3, 4, 5, 6, 7, 8, 9)))
        weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
        if len(v) != 17 or any(not c.isdigit() and c not in values for c in v):
            return False
        rest = sum((int(c) if c.isdigit() else values[c]) * w for c, w in zip(v, weights)) % 11
        return v[8] == ("X" if rest == 10 else str(rest))

    def nric_valid(v):
        if len(v) != 9 or v[0] not in "STFG" or not v[1:8].isdigit():
            return False
        total = sum(int(d) * w for d, w in zip(v[1:8], (2, 7, 6, 5, 4, 3, 2))) + (4 if v[0] in "TG" else 0)
        return v[8] == ("JZIHGFEDCBA" if v[0] in "ST" else "XWUTRQPNMLK")[total % 11]

    def gs1_valid(v):
        return len(v) == 14 and sum(int(d) * (3 if i % 2 == 0 else 1) for i, d in enumerate(v)) % 10 == 0

    def date_part():
        return fake.date_of_birth(minimum_age=1, maximum_age=90)

    def completed(draw_body, valid, tail=string.digits):
        def draw():
            while True:
                body = draw_body()
                for end in tail:
                    if valid(body + end):
                        return body + end
        return draw

    def card_valid(v):
        return luhn.is_valid(v.replace(" ", ""))

    def iban_valid(v):
        return iban.is_valid(v, check_country=False)

    def hetu_body():
        born = date_part()
        sign = "-" if born.year < 2000 else "A"
        return born.strftime("%d%m%y") + sign + f"{rng.randrange(2, 900):03d}"

    def rrn_body(kinds):
        # Numbers given out since October 2020 have no check digit.
        born = date_part()
        while born.year >= 2020:
            born = date_part()
        kind = rng.choice(kinds[:2] if born.year < 2000 else kinds[2:])
        return born.strftime("%y%m%d") + "-" + kind + f"{rng.randrange(0, 96):02d}" + digits(rng, 3)

    def korean_valid(v):
        """The library's rules; a foreigner's check digit is two more (as in Presidio's recogniser for them)."""
        body = rrn.compact(v)
        if body[6] not in "5678":
            return rrn.is_valid(v)
        return rrn.is_valid(body[:12] + rrn.calc_check_digit(body[:12])) \
            and body[12] == str((int(rrn.calc_check_digit(body[:12])) + 2) % 10)

    def uen_other():
        kind = rng.choice(uen.OTHER_UEN_ENTITY_TYPES)
        year = rng.choice([f"T{rng.randrange(0, 26):02d}", f"S{rng.randrange(60, 100):02d}", f"R{rng.randrange(60, 100):02d}"])
        return year + kind + digits(rng, 4)

    def pan_draw():
        letters = "".join(rng.choice(upper) for _ in range(3)) + rng.choice("ABCFGHJLPT") + rng.choice(upper)
        return solve(rng, lambda: letters + digits(rng, 4) + rng.choice(upper), pan.is_valid)

    hetu_tail = "0123456789ABCDEFHJKLMNPRSTUVWXY"
    vin_letters = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"

    def vin_draw():
        while True:
            body = "".join(rng.choice(vin_letters) for _ in range(17))
            for end in "0123456789X":
                candidate = body[:8] + end + body[9:]
                if vin_valid(candidate) and any(map(str.isalpha, candidate)) and any(map(str.isdigit, candidate)):
                    return candidate

    return {
        "CREDIT_CARD": ("card number", lambda: grouped(rng, fake.credit_card_number(), (4, 4, 4, 4)), card_valid),
        "IBAN": ("IBAN", lambda: iban.format(iban_draw(rng, iban_valid), rng.choice(["", "", " "])), iban_valid),
        "UK_NHS": ("NHS number", lambda: grouped(rng, completed(lambda: digits(rng, 9), nhs.is_valid)(), (3, 3, 4)), nhs.is_valid),
        "PL_PESEL": ("PESEL", lambda: solve(rng, lambda: Faker_pl.pesel(), pesel.is_valid), pesel.is_valid),
        "AU_ABN": ("ABN", lambda: grouped(rng, solve(rng, lambda: digits(rng, 11, "123456789"), abn.is_valid), (2, 3, 3, 3)), abn.is_valid),
        "AU_ACN": ("ACN", lambda: grouped(rng, completed(lambda: digits(rng, 8), acn.is_valid)(), (3, 3, 3)), acn.is_valid),
        "AU_TFN": ("TFN", lambda: grouped(rng, completed(lambda: digits(rng, 8), tfn.is_valid)(), (3, 3, 3)), tfn.is_valid),
        "AU_MEDICARE": ("Medicare number", lambda: solve(rng, lambda: digits(rng, 10, "23456"), medicare_valid), medicare_valid),
        "ES_NIF": ("NIF", completed(lambda: digits(rng, 8), nif.is_valid, string.ascii_uppercase), nif.is_valid),
        "ES_NIE": ("NIE", completed(lambda: rng.choice("XYZ") + digits(rng, 7), nie.is_valid, string.ascii_uppercase), nie.is_valid),
        "IT_FISCAL_CODE": ("codice fiscale", lambda: solve(rng, lambda: Faker_it.ssn(), fiscal.is_valid), fiscal.is_valid),
        "IT_VAT_CODE": ("partita IVA", completed(lambda: digits(rng, 10), iva.is_valid), iva.is_valid),
        "SG_NRIC_FIN": ("NRIC", completed(lambda: rng.choice("STFG") + digits(rng, 7), nric_valid, string.ascii_uppercase), nric_valid),
        "SG_UEN/business": ("UEN", completed(lambda: digits(rng, 8), uen.is_valid, upper), uen.is_valid),
        "SG_UEN/company": ("UEN", completed(lambda: str(rng.randrange(1960, 2026)) + digits(rng, 5), uen.is_valid, upper), uen.is_valid),
        "SG_UEN/other": ("unique entity number", completed(uen_other, uen.is_valid, upper), uen.is_valid),
        "IN_AADHAAR": ("Aadhaar", lambda: grouped(rng, completed(lambda: digits(rng, 11, "23456789"), aadhaar.is_valid)(), (4, 4, 4)), aadhaar.is_valid),
        "IN_VOTER": ("voter ID", completed(lambda: "".join(rng.choice(upper) for _ in range(3)) + digits(rng, 6), epic.is_valid), epic.is_valid),
        "IN_PAN": ("PAN", pan_draw, pan.is_valid),
        "IN_GSTIN": ("GSTIN", completed(lambda: f"{rng.randrange(1, 38):02d}" + "".join(rng.choice(string.ascii_uppercase) for _ in range(3))
                                        + rng.choice("ABCFGHJLPT") + rng.choice(string.ascii_uppercase) + digits(rng, 4)
                                        + rng.choice(string.ascii_uppercase) + rng.choice("123456789") + "Z",
                                        gstin.is_valid, string.digits + string.ascii_uppercase), gstin.is_valid),
        "FI_PERSONAL_IDENTITY_CODE": ("henkilötunnus", completed(hetu_body, hetu.is_valid, hetu_tail), hetu.is_valid),
        "KR_RRN": ("resident number", completed(lambda: rrn_body("1234"), korean_valid), korean_valid),
        "KR_RRN/foreigner": ("foreigner number", completed(lambda: rrn_body("5678"), korean_valid), korean_valid),
        "KR_BRN": ("BRN", lambda: solve(rng, lambda: f"{rng.randrange(101, 999)}-{rng.randrange(1, 99):02d}-{rng.randrange(1, 99999):05d}", brn_valid), brn_valid),
        "TH_TNIN": ("Thai ID", lambda: grouped(rng, completed(lambda: digits(rng, 12, "12345678"), tnin.is_valid)(), (1, 4, 5, 2, 1), "-"), tnin.is_valid),
        "US_ROUTING": ("routing number", lambda: fake.aba(), rtn.is_valid),
        "NPI": ("NPI", completed(lambda: digits(rng, 9, "12"), npi_valid), npi_valid),
        "MEDICAL_LICENSE": ("DEA number", completed(lambda: rng.choice("ABFGMPR") + rng.choice(string.ascii_uppercase) + digits(rng, 6), dea_valid), dea_valid),
        "VIN": ("VIN", vin_draw, vin_valid),
        "DEVICE_ID/gtin": ("UDI GTIN", completed(lambda: digits(rng, 13), gs1_valid), gs1_valid),
        "CRYPTO": ("wallet", lambda: bitcoin_address(rng), bitcoin.is_valid),
    }


def iban_draw(rng, valid):
    return solve(rng, lambda: rng.choice(BANKS).iban(), valid)


def brn_valid(value):
    """The library's rules and the check digit, which it does not know."""
    body = value.replace("-", "")
    if not module("kr.brn").is_valid(value):
        return False
    total = sum(int(d) * w for d, w in zip(body, (1, 3, 7, 1, 3, 7, 1, 3, 5))) + int(body[8]) * 5 // 10
    return (10 - total % 10) % 10 == int(body[9])


def bitcoin_address(rng):
    import hashlib
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    payload = bytes([rng.choice((0, 5))]) + bytes(rng.randrange(256) for _ in range(20))
    payload += hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4]
    number, text = int.from_bytes(payload, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        text = alphabet[rest] + text
    return "1" * (len(payload) - len(payload.lstrip(b"\0"))) + text


def labelled(rng, fake):
    """class -> (labels, draw, other labels): formats without a check digit, which a word gives away."""
    upper = string.ascii_uppercase
    letters = lambda count: "".join(rng.choice(upper) for _ in range(count))
    return {
        "MRN": (["MRN", "medical record number", "patient ID", "Medical Record No."],
                lambda: rng.choice([digits(rng, 8), letters(1) + digits(rng, 7), f"{digits(rng, 2)}-{digits(rng, 2)}-{digits(rng, 4)}", "MR" + digits(rng, 8)]),
                ["order", "invoice", "ticket", "article"]),
        "HEALTH_PLAN": (["health plan ID", "member ID", "subscriber number", "health insurance policy number"],
                        lambda: rng.choice([letters(3) + digits(rng, 9), "HP-" + digits(rng, 7), letters(1) + digits(rng, 8)]),
                        ["order", "invoice", "shipment", "batch"]),
        "ACCOUNT": (["account number", "account no.", "account"], lambda: rng.choice([digits(rng, 10), letters(2) + digits(rng, 8), f"{digits(rng, 4)}-{digits(rng, 6)}"]),
                    ["order", "invoice", "shipment", "batch"]),
        "BANK_ACCOUNT": (["bank account number", "checking account", "savings account number"], lambda: digits(rng, rng.randrange(8, 13)),
                         ["order", "invoice", "shipment", "batch"]),
        "LICENSE": (["license number", "certificate number", "nursing licence no."], lambda: rng.choice([letters(2) + digits(rng, 6), "RN-" + digits(rng, 6), digits(rng, 8)]),
                    ["order", "invoice", "shipment", "batch"]),
        "DRIVER_LICENSE": (["driver's license number", "driver license", "driving licence number"], lambda: rng.choice([letters(1) + digits(rng, 12), digits(rng, 8), letters(1) + digits(rng, 7)]),
                           ["order", "invoice", "shipment", "batch"]),
        "PASSPORT": (["passport number", "passport no.", "passport"], lambda: rng.choice([digits(rng, 9), letters(2) + digits(rng, 7), letters(1) + digits(rng, 8)]),
                     ["order", "invoice", "shipment", "batch"]),
        "LICENSE_PLATE": (["license plate", "plate number", "number plate"], lambda: fake.license_plate(), ["order", "invoice", "shipment", "batch"]),
        "DEVICE_ID": (["device serial number", "serial no.", "pacemaker serial"], lambda: rng.choice(["SN-" + digits(rng, 7), letters(3) + digits(rng, 8), digits(rng, 10)]),
                      ["order", "invoice", "shipment", "batch"]),
        "IDENTITY_CARD": (["identity card number", "identity card", "national identity no.", "Personalausweis", "carta d'identità"],
                          lambda: rng.choice([letters(2) + digits(rng, 7), "C" + letters(1) + digits(rng, 5) + letters(2), "L" + digits(rng, 9)]),
                          ["order", "invoice", "shipment", "batch"]),
        "BIOMETRIC": (["fingerprint ID", "retina scan ID", "biometric template"], lambda: rng.choice(["FP-" + digits(rng, 6), letters(2) + digits(rng, 8)]),
                      ["order", "invoice", "shipment", "batch"]),
        "US_SSN": (["SSN", "social security number"], lambda: fake.ssn(), None),
        "US_ITIN": (["ITIN", "taxpayer number"], lambda: fake.itin(), None),
        "US_MBI": (["Medicare beneficiary", "MBI"], lambda: mbi(rng), None),
        "IN_VEHICLE_REGISTRATION": (["vehicle registration", "vehicle number", "car", "number plate"], lambda: vehicle(rng), None),
        "UK_NINO": (["NINO", "national insurance number"], lambda: nino(rng), None),
        "DATE": (["admitted on", "visit on", "date"], lambda: rng.choice([fake.date("%Y-%m-%d"), fake.date("%m/%d/%Y"), fake.date("%d %B %Y"), fake.date("%B %d, %Y"), fake.date("%d.%m.%Y")]), None),
        "BIRTH_DATE": (["DOB", "born", "date of birth"], lambda: rng.choice([fake.date("%Y-%m-%d"), fake.date("%m/%d/%Y"), fake.date("%d %B %Y")]), None),
        "AGE": (["aged", "age"], lambda: str(rng.randrange(90, 120)), ["page", "room", "order", "exit"]),
        "PHONE": (["phone", "Fax", "tel.", "mobile"], lambda: rng.choice(PHONES).phone_number(), None),
        "EMAIL": (["e-mail", "contact"], lambda: fake.email(), None),
        "IP_ADDRESS": (["IP", "client address"], lambda: rng.choice([fake.ipv4(), fake.ipv6()]), None),
        "MAC_ADDRESS": (["MAC", "interface"], lambda: fake.mac_address(), None),
        "URL": (["website", "page"], lambda: fake.url(), None),
        "ZIP_CODE": (["ZIP", "zip code", "postal code"], lambda: fake.postcode(), ["order", "invoice", "room", "batch"]),
    }


def mbi(rng):
    letter = "ACDEFGHJKMNPQRTUVWXY"
    either = letter + string.digits
    form = [string.digits[1:], letter, either, string.digits, letter, either, string.digits, letter, letter, string.digits, string.digits]
    return "".join(rng.choice(kind) for kind in form)


def nino(rng):
    while True:
        first, second = rng.choice("ABCEGHJKLMNOPRSTWXYZ"), rng.choice("ABCEGHJKLMNPRSTWXYZ")
        if first + second not in ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ"):
            return first + second + digits(rng, 6) + rng.choice("ABCD")


# States and territories of India as number plates name them.
STATES = ("AN AP AR AS BR CG CH DD DL DN GA GJ HP HR JH JK KA KL LA LD MH ML MN MP MZ NL OD OR PB PY RJ SK TG TN TR TS UK UP "
          "UA WB").split()


def vehicle(rng):
    letters = lambda count: "".join(rng.choice(string.ascii_uppercase) for _ in range(count))
    serial = f"{rng.randrange(1, 10000):04d}"
    parts = rng.choice([
        [rng.choice(STATES), f"{rng.randrange(1, 100):02d}", letters(rng.choice([1, 2, 2])), serial],
        [rng.choice(STATES), f"{rng.randrange(1, 100):02d}", letters(rng.choice([1, 2, 2])), serial],
        ["DL", str(rng.randrange(1, 10)), letters(rng.choice([2, 3])), serial],
        [str(rng.randrange(21, 27)) + "BH" + serial + rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ")],
    ])
    return rng.choice(["", "", " ", "-"]).join(parts)


def misshapen_vehicle(rng):
    others = [a + b for a in string.ascii_uppercase for b in string.ascii_uppercase if a + b not in STATES]
    state, letters = rng.choice(STATES), rng.choice(string.ascii_uppercase) + rng.choice(string.ascii_uppercase)
    district, serial = f"{rng.randrange(1, 100):02d}", f"{rng.randrange(1, 10000):04d}"
    return rng.choice(["", "", " ", "-"]).join(rng.choice([
        [rng.choice(others), district, letters, serial],
        [state, "00", letters, serial],
        [state, district, letters, "0000"],
        [state, district, letters, serial + rng.choice(string.digits)],
        [state, district, letters + "QX", serial],
    ]))


# What each form without a check must not be taken for: the same characters in a form that is never given out.
MISSHAPEN = {
    "US_SSN": lambda rng: rng.choice(["000-%02d-%04d" % (rng.randrange(1, 99), rng.randrange(1, 9999)),
                                      "666-%02d-%04d" % (rng.randrange(1, 99), rng.randrange(1, 9999)),
                                      "%03d-00-%04d" % (rng.randrange(1, 665), rng.randrange(1, 9999)),
                                      "%03d-%02d-0000" % (rng.randrange(1, 665), rng.randrange(1, 99))]),
    "US_ITIN": lambda rng: "9%02d-%02d-%04d" % (rng.randrange(100), rng.choice([0, 10, 20, 30, 40, 49, 66, 69, 89, 93]), rng.randrange(1, 9999)),
    "US_MBI": lambda rng: mbi(rng)[:1] + rng.choice("SLOIBZ") + mbi(rng)[2:],
    "UK_NINO": lambda rng: rng.choice("DFIQUV") + nino(rng)[1:],
    "IN_VEHICLE_REGISTRATION": misshapen_vehicle,
    "DATE": lambda rng: rng.choice(["%04d-%02d-%02d" % (rng.randrange(1950, 2030), rng.randrange(13, 60), rng.randrange(32, 99)),
                                    "%02d/%02d/%04d" % (rng.randrange(32, 99), rng.randrange(32, 99), rng.randrange(1950, 2030))]),
    "BIRTH_DATE": lambda rng: "%04d-%02d-%02d" % (rng.randrange(1950, 2030), rng.randrange(13, 60), rng.randrange(32, 99)),
    "PHONE": lambda rng: rng.choice(["%d" % rng.randrange(1000, 99999), "%d %d" % (rng.randrange(10, 99), rng.randrange(10, 999))]),
    "EMAIL": lambda rng: rng.choice(["@" + nino(rng).lower(), "user@", "a@b", "me @ example.org"]),
    "IP_ADDRESS": lambda rng: "%d.%d.%d.%d" % (rng.randrange(256, 999), rng.randrange(256), rng.randrange(256), rng.randrange(256)),
    "MAC_ADDRESS": lambda rng: ":".join("%02x" % rng.randrange(256) for _ in range(5)) + ":zz",
    "URL": lambda rng: rng.choice(["http:/example.org", "://x", "httpx.example", "www example com"]),
}
PHONES, BANKS = [], []


def main():
    global Faker_pl, Faker_it
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    Faker.seed(arguments.seed)
    fake, Faker_pl, Faker_it = Faker("en_US"), Faker("pl_PL"), Faker("it_IT")
    PHONES.extend(Faker(locale) for locale in ("en_US", "en_GB", "de_DE", "fr_FR", "sv_SE", "es_ES"))
    BANKS.extend(Faker(locale) for locale in ("en_GB", "de_DE", "it_IT", "nl_NL", "pl_PL", "de_AT", "fr_CH"))

    def emit(name, label, value, real):
        text = rng.choice(AROUND).format(label=label, value=value)
        case = {"class": name, "text": text, "value": value, "real": real}
        print(json.dumps(case, ensure_ascii=False, separators=(",", ":")))

    for name, (label, draw, valid) in checked(rng, fake).items():
        for _ in range(arguments.each):
            value = draw()
            emit(name, label, value, True)
            emit(name, label, spoil(rng, value, valid), False)
    for name, (labels, draw, others) in labelled(rng, fake).items():
        for _ in range(arguments.each):
            emit(name, rng.choice(labels), draw(), True)
            if others:
                emit(name, rng.choice(others), draw(), False)
            else:
                emit(name, rng.choice(labels), MISSHAPEN[name](rng), False)


if __name__ == "__main__":
    main()
