//! An AWS that is not AWS: a stand-in, or an emulator.

use aws_config::SdkConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use failover::remote::https::Https;
use failover::remote::sdk;

/// The configuration of a system whose AWS is at `url`.
pub async fn aws_at(url: &str) -> SdkConfig {
    aws_by(&Https::new(&|_| None).expect("no bundle is named"), url).await
}

/// The same, over these connections.
pub async fn aws_by(https: &Https, url: &str) -> SdkConfig {
    sdk::aws_config(https.client())
        .endpoint_url(url)
        .credentials_provider(credentials("stand-in"))
        .load()
        .await
}

/// Credentials whose secret is the key's own name.
pub fn credentials(key: &str) -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(Credentials::new(key, key, None, None, "stand-in"))
}
