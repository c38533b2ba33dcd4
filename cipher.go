package main

// The setting ciphers: what a list in OpenSSL's language (openssl-ciphers(1))
// leaves of the suites that are offered. Those are few: forward secrecy and
// authenticated encryption are not for a list to choose. The suites of TLS 1.3
// are always on, as OpenSSL's list does not reach them either.

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
)

// suite is one of TLS 1.2 that can be negotiated here.
type suite struct {
	id    uint16
	name  string // OpenSSL's
	words string // the words of its language that mean this suite among others
}

var suites = []suite{
	{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256", "aECDSA ECDSA AES AES128 AESGCM"},
	{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256", "aRSA AES AES128 AESGCM"},
	{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384", "aECDSA ECDSA AES AES256 AESGCM"},
	{tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384", "aRSA AES AES256 AESGCM"},
	{tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305", "aECDSA ECDSA CHACHA20"},
	{tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305", "aRSA CHACHA20"},
}

// allSuites are words that mean every one of them.
var allSuites = strings.Fields("ALL DEFAULT HIGH TLSv1.2 ECDHE EECDH kECDHE kEECDH ECDH")

// otherWords belong to the language and mean suites that are not offered.
var otherWords = strings.Fields(`COMPLEMENTOFALL COMPLEMENTOFDEFAULT MEDIUM LOW EXP EXPORT EXPORT40 EXPORT56
	aNULL eNULL NULL kRSA RSA kECDH DH DHE EDH kDHE kEDH kDH kDHr kDHd ADH AECDH aDH aDSS DSS DES 3DES RC4 RC2 IDEA SEED
	CAMELLIA CAMELLIA128 CAMELLIA256 ARIA ARIA128 ARIA256 ARIAGCM AESCCM AESCCM8 CBC MD5 SHA SHA1 SHA256 SHA384
	SSLv2 SSLv3 TLSv1 TLSv1.0 TLSv1.1 PSK kPSK kECDHEPSK kDHEPSK kRSAPSK aPSK SRP kSRP aSRP KRB5 kKRB5 aKRB5
	aGOST aGOST01 kGOST GOST94 GOST89MAC GOST aECDH kECDHr kECDHe FZA kFZA aFZA eFZA`)

// nameParts make up the names of suites that OpenSSL has or had.
var nameParts = strings.Fields(`EXP EXP1024 ECDHE ECDH DHE EDH DH ADH AECDH RSA ECDSA DSS PSK SRP KRB5 NULL AES128 AES256
	GCM CCM CCM8 CBC CBC3 RC4 RC2 DES DES3 IDEA SEED CAMELLIA128 CAMELLIA256 ARIA ARIA128 ARIA256 CHACHA20 POLY1305
	MD5 SHA SHA256 SHA384 AES 128 256 3DES EDE`)

// selectSuites reads a list: nil for none given.
func selectSuites(list string) ([]uint16, error) {
	if list == "" {
		list = "ALL"
	}
	chosen, killed := map[uint16]bool{}, map[uint16]bool{}
	for _, item := range strings.FieldsFunc(list, func(r rune) bool { return r == ':' || r == ',' || r == ' ' || r == ';' }) {
		if item == "@STRENGTH" || strings.HasPrefix(item, "@SECLEVEL=") {
			continue // order is not for the list to say, and no suite here is weak
		}
		op, words := item[0], item[1:]
		if op != '!' && op != '-' && op != '+' {
			op, words = 0, item
		}
		met, err := suitesOf(words)
		if err != nil {
			return nil, err
		}
		for _, id := range met {
			switch {
			case op == '!':
				killed[id] = true
			case op == '-':
				delete(chosen, id)
			case op == 0:
				chosen[id] = true
			}
		}
	}
	var ids []uint16
	for _, s := range suites {
		if chosen[s.id] && !killed[s.id] {
			ids = append(ids, s.id)
		}
	}
	if ids == nil {
		return nil, fmt.Errorf("%q leaves no cipher; those for TLS 1.2 are %s", list, suiteNames())
	}
	return ids, nil
}

func suiteNames() string {
	var names []string
	for _, s := range suites {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// suitesOf are the suites that all of some words, joined by plus, mean.
func suitesOf(words string) (met []uint16, err error) {
	for _, s := range suites {
		met = append(met, s.id)
	}
	for word := range strings.SplitSeq(words, "+") {
		known := slices.Contains(allSuites, word) || slices.Contains(otherWords, word) || isSuiteName(word)
		met = slices.DeleteFunc(met, func(id uint16) bool {
			s := suites[slices.IndexFunc(suites, func(s suite) bool { return s.id == id })]
			return word != s.name && word != tls.CipherSuiteName(s.id) && !slices.Contains(allSuites, word) &&
				!slices.Contains(strings.Fields(s.words), word)
		})
		for _, s := range suites {
			known = known || slices.Contains(strings.Fields(s.words), word)
		}
		if !known {
			return nil, fmt.Errorf("%q is no word of a list of ciphers", word)
		}
	}
	return met, nil
}

// isSuiteName says whether a word is built as the name of a suite.
func isSuiteName(word string) bool {
	if strings.HasPrefix(word, "TLS_") {
		return slices.ContainsFunc(append(tls.CipherSuites(), tls.InsecureCipherSuites()...), func(s *tls.CipherSuite) bool {
			return s.Name == word
		})
	}
	parts := strings.Split(word, "-")
	return len(parts) > 1 && !slices.ContainsFunc(parts, func(part string) bool { return !slices.Contains(nameParts, part) })
}

// cipherName is OpenSSL's name of a suite.
func cipherName(id uint16) string {
	for _, s := range suites {
		if s.id == id {
			return s.name
		}
	}
	return tls.CipherSuiteName(id) // of TLS 1.3, where OpenSSL uses these
}
