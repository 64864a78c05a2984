module consentd.test/proxy

go 1.21
