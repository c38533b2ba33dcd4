package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestCiphers reads lists as OpenSSL does, as far as our suites go.
func TestCiphers(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is not installed; it is in the Debian package openssl")
	}
	lists := []string{
		"ALL", "DEFAULT", "HIGH:!aNULL:!MD5", "ECDHE+AESGCM", "EECDH+AESGCM:EDH+AESGCM:AES256+EECDH", "ECDHE+CHACHA20:ECDHE+AES256",
		"HIGH:!aRSA", "HIGH:-aRSA:aRSA+AES128", "ALL:!AESGCM", "ALL:!CHACHA20:@STRENGTH", "ECDHE-RSA-AES128-GCM-SHA256",
		"kECDHE:!AES256", "aECDSA", "aRSA:!AES", "TLSv1.2", "AES128:AES256:RSA", "HIGH:+AES128", "ALL:-ALL:AESGCM+aECDSA",
		"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:" +
			"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384",
		"ECDH+AESGCM:DH+AESGCM:ECDH+AES256:DH+AES256:ECDH+AES128:DH+AES:RSA+AESGCM:RSA+AES:!aNULL:!MD5:!DSS",
		"ECDHE-RSA-AES256-SHA,ECDHE-RSA-AES256-GCM-SHA384 AES128-SHA",
	}
	for _, list := range lists {
		out, err := exec.Command("openssl", "ciphers", "-s", "-tls1_2", list).Output()
		if err != nil {
			t.Fatalf("openssl ciphers %s: %v", list, err)
		}
		var want, got []string
		for _, name := range strings.Split(strings.TrimSpace(string(out)), ":") {
			if slices.ContainsFunc(suites, func(s suite) bool { return s.name == name }) {
				want = append(want, name)
			}
		}
		ids, err := selectSuites(list)
		for _, id := range ids {
			got = append(got, cipherName(id))
		}
		slices.Sort(want)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v\nOpenSSL has %v", list, got, err, want)
		}
	}
	for list, want := range map[string]string{
		"nonsense":               `"nonsense" is no word of a list of ciphers`,
		"HIGH:ECDHE+nonsense":    `"nonsense" is no word of a list of ciphers`,
		"!":                      `"" is no word of a list of ciphers`,
		"TLSv1":                  `"TLSv1" leaves no cipher; those for TLS 1.2 are ` + suiteNames(),
		"ALL:!ECDHE":             `"ALL:!ECDHE" leaves no cipher; those for TLS 1.2 are ` + suiteNames(),
		"TLS_AES_128_GCM_SHA256": `"TLS_AES_128_GCM_SHA256" leaves no cipher; those for TLS 1.2 are ` + suiteNames(),
		":":                      `":" leaves no cipher; those for TLS 1.2 are ` + suiteNames(),
	} {
		if ids, err := selectSuites(list); err == nil || err.Error() != want {
			t.Errorf("%s: %v, %v", list, ids, err)
		}
	}
	// Every suite that OpenSSL knows has a name that is understood.
	out, err := exec.Command("openssl", "ciphers", "ALL:COMPLEMENTOFALL").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Split(strings.TrimSpace(string(out)), ":") {
		if _, err := suitesOf(name); err != nil {
			t.Error(err)
		}
	}
}
